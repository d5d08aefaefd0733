"""Images so much alike that one answer serves all of them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cotrain_dist.method.herding import BLOCK_SIZE, squared_distances, squared_lengths

NEAR_FRACTION = 0.13
"""Of the median distance from an image to its nearest neighbor: below it, two count as one."""

OTHERS_SIZE = 8192
"""Images that a block is compared with at a time: bounds memory."""


def group_near(points: Tensor, fraction: float = NEAR_FRACTION) -> Tensor:
    """Connected components of the pairs closer than `fraction` of the median nearest distance.

    points: [N, F] int16 as of `encode_points`. Returns [N] int64: of each row, the lowest row of
    its group. The groups depend on no order of the rows and on no size of blocks. Takes memory for
    one block of distances and a few numbers an image; time for N^2 / 2 distances.
    """
    groups = torch.arange(len(points))
    if len(points) < 2:
        return groups
    nearest = nearest_squares(points)
    cut = fraction**2 * float(nearest.double().sqrt().quantile(0.5)) ** 2
    # An image whose nearest neighbor is too far is near to none, and they are most.
    rows = (nearest < cut).nonzero().flatten()
    near = points[rows]
    for start in range(0, len(rows), BLOCK_SIZE):
        for begin, squares in _distances_to_later(near, start):
            first, second = (squares < cut).nonzero(as_tuple=True)
            groups = _joined(groups, rows[first + start], rows[second + begin])
    return groups


def nearest_squares(points: Tensor) -> Tensor:
    """Squared distance of each of [N, F] int16 to its nearest other one: [N] float32, 0..4."""
    nearest = torch.full((len(points),), torch.inf)
    for start in range(0, len(points), BLOCK_SIZE):
        own = slice(start, start + BLOCK_SIZE)
        for begin, squares in _distances_to_later(points, start):
            others = slice(begin, begin + squares.shape[1])
            nearest[own] = torch.minimum(nearest[own], squares.min(dim=1).values)
            nearest[others] = torch.minimum(nearest[others], squares.min(dim=0).values)
    return nearest


def _distances_to_later(points: Tensor, start: int) -> Iterator[tuple[int, Tensor]]:
    """Of the block from `start` to itself and all later ones: their first row, and [n, R]."""
    block = points[start : start + BLOCK_SIZE].float()
    for begin in range(start, len(points), OTHERS_SIZE):
        others = points[begin : begin + OTHERS_SIZE].float()
        squares = squared_distances(block, others, squared_lengths(others))
        if begin == start:
            squares.fill_diagonal_(torch.inf)  # an image and itself
        yield begin, squares


def _joined(groups: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The groups, [N] int64, once the pairs (first, second), [E] int64 each, lie in one."""
    if not len(first):
        return groups
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num = len(groups)
    rows = torch.cat([groups[first], torch.arange(num)]).numpy()
    columns = torch.cat([groups[second], groups]).numpy()
    edges = coo_array((torch.ones(len(rows)).numpy(), (rows, columns)), shape=(num, num))
    found = torch.from_numpy(connected_components(edges, directed=False)[1]).long()
    lowest = torch.full((num,), num).scatter_reduce(0, found, torch.arange(num), "amin")
    return lowest[found]
