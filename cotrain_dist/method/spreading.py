"""Labels spread over the graph of nearest neighbors: what the pool's own structure says.

Zhou et al., "Learning with Local and Global Consistency" (2004): F <- alpha S F + (1 - alpha) Y,
where Y are the labels that are given and S = D^-1/2 W D^-1/2 is the normalized graph.

Points are whole numbers (`herding.encode_points`), and so are their products: an image has the same
neighbors whichever rank looks for them, in blocks of whichever size. Classes spread independently
of each other, so ranks can share them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]

NUM_ROWS, NUM_COLUMNS = 512, 8192
"""Pairs of images that are compared at a time: bounds memory."""

LARGEST_PRODUCT = 2**24
"""Of two points, see `herding.scale_of`."""


@dataclass(frozen=True)
class Neighbors:
    """The nearest images of some images, nearest first; of equally near ones the lower index.

    ids: [n, k] int32. products: [n, k] int32, of the points as whole numbers.
    """

    ids: Tensor
    products: Tensor


def find_neighbors(points: Tensor, rows: range, num_neighbors: int) -> Neighbors:
    """The neighbors of consecutive rows among all points, by product (the cosine, for length 1).

    points: [N, F] int16, from `herding.encode_points`. No image is its own neighbor: k is
    num_neighbors, or N - 1 where that is less. Takes memory for one block of pairs.
    """
    num_points = len(points)
    width = max(0, min(num_neighbors, num_points - 1))
    ids = torch.empty((len(rows), width), dtype=torch.int32)
    products = torch.empty((len(rows), width), dtype=torch.int32)
    for start in range(0, len(rows), NUM_ROWS):
        some = rows[start : start + NUM_ROWS]
        keys = _best_keys(points, some, width)
        # Undoes what `_keys_of` does.
        ids[start : start + NUM_ROWS] = (num_points - 1 - keys % num_points).int()
        products[start : start + NUM_ROWS] = keys.div(num_points, rounding_mode="floor").int()
    return Neighbors(ids, products)


def _best_keys(points: Tensor, rows: range, width: int) -> Tensor:
    """Keys of the neighbors of a block of rows, [n, width] int64, falling."""
    own = points[rows.start : rows.stop].float()
    best = torch.empty((len(rows), 0), dtype=torch.int64)
    for start in range(0, len(points), NUM_COLUMNS):
        columns = range(start, min(start + NUM_COLUMNS, len(points)))
        keys = _keys_of(own, points[columns.start : columns.stop].float(), start, len(points))
        both = range(max(rows.start, columns.start), min(rows.stop, columns.stop))
        if len(both):  # an image and itself
            places = torch.arange(both.start, both.stop)
            keys[places - rows.start, places - start] = torch.iinfo(torch.int64).min
        best = torch.cat([best, keys], dim=1)
        best = best.topk(min(width, best.shape[1]), dim=1).values
    return best


def _keys_of(own: Tensor, others: Tensor, first: int, num_points: int) -> Tensor:
    """Product and index of each pair in one whole number, [n, m] int64: larger is nearer.

    `topk` says nothing of the order of equal values; no two keys of a row are equal.
    """
    places = torch.arange(num_points - 1 - first, num_points - 1 - first - len(others), -1)
    return (own @ others.T).long().mul_(num_points).add_(places)


def build_graph(neighbors: Neighbors, power: float) -> "csr_array":
    """The normalized graph of N images, [N, N] float64, symmetric to the bit.

    neighbors: of all N images, in their order. A pair weighs max(cosine, 0) ** power, and twice as
    much where each is a neighbor of the other. An image without a neighbor of positive weight has
    no edges. The exact length of a point is not asked for: a factor on all weights cancels.
    """
    from scipy.sparse import csr_array

    num_points, width = neighbors.ids.shape
    products = neighbors.products.numpy().ravel().astype(np.float64)
    weights = (products.clip(min=0.0) / LARGEST_PRODUCT) ** power
    rows = np.repeat(np.arange(num_points, dtype=np.int32), width)
    shape = num_points, num_points
    one_way = csr_array((weights, (rows, neighbors.ids.numpy().ravel())), shape=shape)
    graph = (one_way + one_way.T).tocsr()  # without the zeros
    graph.sort_indices()
    roots = np.sqrt(graph @ np.ones(num_points))
    sources = np.repeat(np.arange(num_points), np.diff(graph.indptr))
    graph.data /= roots[sources] * roots[graph.indices]
    return graph


def spread_labels(graph: "csr_array", seeds: Floats, *, alpha: float, num_steps: int) -> Floats:
    """F after some steps of F <- alpha graph F + (1 - alpha) seeds, from F = seeds; [N, c] float64.

    seeds: [N, c], what each image is given of each class, rows of 0 where nothing is known. alpha:
    0..1, the share that comes from neighbors. A class has the same bits alone and beside others.
    """
    given = np.ascontiguousarray(seeds, dtype=np.float64)
    spread = given
    given = given * (1.0 - alpha)
    for _ in range(num_steps):
        spread = graph @ spread
        spread *= alpha
        spread += given
    return spread


def to_distribution(spread: Floats) -> Floats:
    """Rows [N, C] that sum to 1, of all classes together.

    A row that nothing has reached becomes uniform: in a geometric mean with another opinion, that
    leaves the other as it is.
    """
    # The order of a sum over rows follows the order in memory, which depends on how classes that
    # several ranks have spread were put together.
    rows = np.ascontiguousarray(spread)
    totals = rows.sum(axis=1, keepdims=True)
    reached = totals > 0.0
    return np.where(reached, rows / np.where(reached, totals, 1.0), 1.0 / rows.shape[1])
