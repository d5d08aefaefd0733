"""Herding: the images that stand for all others, chosen before there is any label.

MaxHerding (Bae, Noh and Sutherland, 2024, arXiv 2412.20644): take, one by one, the image that adds
most to the mean over all images u of max over the chosen z of k(u, z) = exp(-|u - z|^2 / sigma^2).
The sum is monotone and submodular, so what an image adds can only fall: a bound from an earlier
step saves most evaluations (lazy greedy, Minoux 1978), and the list is the same.

Points are whole numbers, and so are similarities and weights: every sum below is exact. The list
depends on no order of summation, so on no number of threads, ranks or blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SIMILARITY_STEPS = 2**15 - 1
"""A similarity of 1 as a whole number, of 16 bits with its sign."""

WEIGHT_STEPS = 2**8
"""A weight of 1: with a similarity, 23 bits; float32 holds 24 exactly."""

BLOCK_SIZE = 512
"""Images that are compared with the reference at a time: bounds memory."""

FIRST_BOUNDS = 32
"""Bounds that are looked at in a step before any more."""

KEPT_BYTES = 2**27
"""For similarities of images that may be looked at again."""


def encode_points(features: list[Tensor], centers: list[Tensor]) -> Tensor:
    """Points of unit length from the features of each model, side by side.

    features: [n, F_m] float each, centers: [F_m] float64 each. Each model's are centered and scaled
    to length 1, so that none outweighs the other. Returns [n, F] int16, multiples of 1 / `scale_of`
    (F), so small that a product of two points has no digit beyond float32's.
    """
    parts = []
    for own, center in zip(features, centers, strict=True):
        parts.append(_to_unit_length(own.double() - center))
    points = _to_unit_length(torch.cat(parts, dim=1))
    return (points * scale_of(points.shape[1])).round().to(torch.int16)


def scale_of(num_features: int) -> int:
    """What length 1 is as a whole number."""
    # A rounded point is longer than 1 by at most half a step in each direction. With at most 2^12,
    # a product is at most 2^24 (Cauchy-Schwarz), and so is each partial sum on its way.
    return int(2**12 - num_features**0.5 / 2)


def _to_unit_length(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / lengths.clamp_min(1e-12)


@dataclass(frozen=True)
class Coverage:
    """How well chosen images stand for the reference images, and what a further one would add."""

    reference: Tensor
    """[R, F] float32, whole numbers."""
    lengths: Tensor
    """[R] float32: their squared lengths."""
    weights: Tensor
    """[R] float32, whole numbers of at most WEIGHT_STEPS."""
    sigma: float
    covered: Tensor
    """[R] float32: similarity to the nearest chosen image."""

    @classmethod
    def of(cls, reference: Tensor, *, weights: Tensor | None = None, sigma: float) -> "Coverage":
        """No image is chosen yet. reference: [R, F] int16; weights: [R] float 0..1, None is 1."""
        steps = torch.ones(len(reference)) if weights is None else weights
        rows = reference.float()
        return cls(
            reference=rows,
            lengths=squared_lengths(rows),
            weights=(steps.double() * WEIGHT_STEPS).round().float(),
            sigma=sigma,
            covered=torch.zeros(len(reference)),
        )

    def similarities(self, points: Tensor) -> Tensor:
        """[n, F] int16 -> [n, R] float32, whole numbers of at most SIMILARITY_STEPS."""
        squares = squared_distances(points.float(), self.reference, self.lengths)
        return (squares.mul_(-1.0 / self.sigma**2).exp_() * SIMILARITY_STEPS).round_()

    def gains(self, points: Tensor) -> Tensor:
        """What each of [n, F] int16 would add, [n] float64, whole numbers."""
        parts = [self.gains_of(self.similarities(block)) for block in points.split(BLOCK_SIZE)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)

    def gains_of(self, similarities: Tensor) -> Tensor:
        """The same from similarities [n, R] float32, which are changed."""
        added = similarities.sub_(self.covered).clamp_min_(0.0).mul_(self.weights)
        return added.sum(dim=1, dtype=torch.float64)

    def choose(self, points: Tensor) -> None:
        """Count images [n, F] int16 as chosen; n may be 0."""
        if not len(points):
            return  # `split` would give one empty block
        for block in points.split(BLOCK_SIZE):
            nearest = self.similarities(block).max(dim=0).values
            torch.maximum(self.covered, nearest, out=self.covered)


def squared_lengths(points: Tensor) -> Tensor:
    """Of whole numbers as float32, [n, F] -> [n]."""
    return (points * points).sum(dim=1)


def squared_distances(points: Tensor, others: Tensor, lengths_of_others: Tensor) -> Tensor:
    """Of unit-length points [n, F] to [R, F], both whole numbers as float32 -> [n, R], 0..4.

    lengths_of_others: [R], their `squared_lengths`, which many calls may share.
    """
    scale = scale_of(points.shape[1])
    lengths = squared_lengths(points)[:, None] + lengths_of_others
    return (points @ others.T).mul_(-2.0).add_(lengths).clamp_min_(0.0).div_(scale**2)


def herd(
    coverage: Coverage,
    points: Tensor,
    num: int,
    *,
    gains: Tensor | None = None,
    is_copy: Callable[[int, list[int]], bool] = lambda index, chosen: False,
) -> list[int]:
    """Rows of `points` in the order in which they are chosen, at most `num`.

    points: [N, F] int16. gains: `coverage.gains(points)`, where they are known. is_copy: whether a
    row is not to be listed beside those listed before it. Of equal rows the first wins. Changes
    `coverage`. Takes memory for the points and one number a point.
    """
    bounds = (coverage.gains(points) if gains is None else gains).clone()
    candidates = _Candidates(coverage, points)
    chosen: list[int] = []
    while len(chosen) < num:
        best = _best_of_bounds(candidates, bounds)
        if best is None:
            break
        bounds[best] = -1.0
        if not is_copy(best, chosen):
            chosen.append(best)
            coverage.choose(points[best : best + 1])
    return chosen


class _Candidates:
    """Gains of images that are looked at again and again: their similarities are kept."""

    def __init__(self, coverage: Coverage, points: Tensor) -> None:
        self._coverage, self._points = coverage, points
        num_kept = max(1, min(len(points), KEPT_BYTES // (2 * len(coverage.reference))))
        self._kept = torch.empty((num_kept, len(coverage.reference)), dtype=torch.int16)
        self._owners = torch.full((num_kept,), -1)
        self._places = torch.full((len(points),), -1)
        self._next = 0

    def gains(self, rows: Tensor) -> Tensor:
        """As `Coverage.gains` of these rows, [n] int64 -> [n] float64."""
        parts = []
        for block in rows.split(min(BLOCK_SIZE, len(self._kept))):
            self._keep(block[self._places[block] < 0])
            kept = self._places[block]
            if (kept < 0).any():  # one that the others have driven out
                parts.append(self._coverage.gains(self._points[block]))
            else:
                parts.append(self._coverage.gains_of(self._kept[kept].float()))
        return torch.cat(parts)

    def _keep(self, rows: Tensor) -> None:
        """Put the similarities of rows in the place of those that were kept first."""
        if not len(rows):
            return
        places = (self._next + torch.arange(len(rows))) % len(self._kept)
        self._next = int(places[-1]) + 1
        driven_out = self._owners[places]
        self._places[driven_out[driven_out >= 0]] = -1
        self._kept[places] = self._coverage.similarities(self._points[rows]).to(torch.int16)
        self._owners[places], self._places[rows] = rows, places


def _best_of_bounds(candidates: _Candidates, bounds: Tensor) -> int | None:
    """The row that adds most; bounds, from earlier steps, are brought up to date where needed."""
    top, best, size = -1.0, None, FIRST_BOUNDS
    # A bound that equals the best gain may be of an earlier row, which then wins.
    waiting = bounds.clone()
    while True:
        values, rows = waiting.topk(min(size, len(waiting)))
        rows = rows[values >= max(top, 0.0)]
        if not len(rows):
            return best
        bounds[rows] = candidates.gains(rows)
        waiting[rows] = -1.0
        highest = float(bounds[rows].max())
        first = int(rows[bounds[rows] == highest].min())
        if best is None or highest > top or (highest == top and first < best):
            top, best = highest, first
        size *= 2
