"""Which images to ask a person about: scores of the paper's section 2.2, larger is asked sooner.

After Settles, "Active Learning Literature Survey" (2009), sections 3.1 to 3.6. Probabilities are
[N, C] float64 of one model, or [M, N, C] of a committee of M; scores are [N] float64.
"""

import math

import torch
from torch import Tensor

from cotrain_dist.method.herding import squared_distances, squared_lengths

DECIMALS = 9
"""Scores are compared to so many digits: the last bits of a product depend on the processor."""

SMALLEST_SIGMA = 0.3
"""Of herding in rounds."""


def least_confidence(probs: Tensor) -> Tensor:
    """1 - the largest probability (Lewis and Gale, 1994)."""
    return 1.0 - probs.max(dim=-1).values


def margin(probs: Tensor) -> Tensor:
    """1 - (largest - second largest probability) (Scheffer et al., 2001)."""
    if probs.shape[-1] < 2:
        return torch.zeros(probs.shape[:-1], dtype=probs.dtype)
    top = probs.topk(2, dim=-1).values
    return 1.0 - (top[..., 0] - top[..., 1])


def entropy(probs: Tensor) -> Tensor:
    """-sum p ln p, in nats (Shannon, 1948)."""
    terms: Tensor = torch.special.xlogy(probs, probs)
    return -terms.sum(dim=-1)


def vote_entropy(probs: Tensor) -> Tensor:
    """Entropy of the committee's top classes (Dagan and Engelson, 1995).

    With two models it takes two values, so equal ones are told apart by the distance of their
    probabilities, at a scale that never overturns a vote.
    """
    num_classes = probs.shape[-1]
    votes = torch.nn.functional.one_hot(probs.argmax(dim=-1), num_classes).double()
    return entropy(votes.mean(dim=0)) + 1e-3 * committee(probs)


def committee(probs: Tensor) -> Tensor:
    """Mean KL divergence of each model from the mean of all (McCallum and Nigam, 1998), in nats."""
    return entropy(probs.mean(dim=0)) - entropy(probs).mean(dim=0)


def density(similarity: Tensor, uncertainty: Tensor | None = None) -> Tensor:
    """Information density (Settles and Craven, 2008): uncertainty times mean similarity to U.

    similarity: [N] float64, the mean cosine to the pool. Without labels the similarity alone.
    """
    closeness = (1.0 + similarity) / 2.0  # a negative factor would turn the order round
    return closeness if uncertainty is None else uncertainty * closeness


def expected_gradient(probs: Tensor, features: Tensor) -> Tensor:
    """Expected length of the loss's gradient in the last layer (Settles and Craven, 2008).

    probs: [N, C] of one model; features: [N, F], what its last layer is given. The gradient of a
    label c is (p - e_c) times (features, 1), so its length has a closed form.
    """
    others = (probs**2).sum(dim=-1, keepdim=True) - probs**2 + (1.0 - probs) ** 2
    lengths = (features.double() ** 2).sum(dim=-1).add(1.0).sqrt()
    return (probs * others.clamp_min(0.0).sqrt()).sum(dim=-1) * lengths


def in_order(scores: Tensor) -> list[int]:
    """Rows by falling score; of equal ones, the first comes first."""
    return (-scores).round(decimals=DECIMALS).sort(stable=True).indices.tolist()


def mean_similarity(points: Tensor, reference: Tensor) -> Tensor:
    """Mean cosine of points [N, F] to a reference [R, F], both int16 of length 1 -> [N] float64.

    The mean of products is the product with the mean, so this takes no matrix of pairs.
    """
    mean = reference.double().mean(dim=0)
    products = [block.double() @ mean for block in points.split(4096)]
    lengths = [block.double().norm(dim=1) for block in points.split(4096)]
    scale = torch.cat(lengths).clamp_min(1.0)
    return torch.cat(products) / scale / float(reference.double().norm(dim=1).mean().clamp_min(1.0))


def sigma_of_rounds(labeled: Tensor) -> float:
    """Width of herding in rounds: the least distance between labeled points [n, F] int16."""
    if len(labeled) < 2:
        return 1.0
    points, least = labeled.float(), 4.0
    lengths = squared_lengths(points)
    for start in range(0, len(points), 512):
        squares = squared_distances(points[start : start + 512], points, lengths)
        rows = torch.arange(len(squares))
        squares[rows, start + rows] = 4.0  # a point and itself
        least = min(least, float(squares.min()))
    return max(SMALLEST_SIGMA, math.sqrt(least))


class Copies:
    """Tells whether an image is nearly one that is listed or labeled already."""

    def __init__(self, points: Tensor, labeled: Tensor, near: float) -> None:
        """points: [N, F] int16, of the images to list; labeled: [n, F] int16.

        near: distance of unit-length features (0..2) below which two images count as one.
        """
        self._points, self._near = points, near
        self._seen = torch.empty((max(64, 2 * len(labeled)), points.shape[1]))
        self._seen[: len(labeled)] = labeled.float()
        self._lengths = squared_lengths(self._seen)
        self._num_labeled = self._num_seen = len(labeled)

    def __call__(self, index: int, chosen: list[int]) -> bool:
        """Whether row `index` is nearly a labeled one or one of `chosen`, which only grows."""
        for row in chosen[self._num_seen - self._num_labeled :]:
            if self._num_seen == len(self._seen):
                self._seen = torch.cat([self._seen, torch.empty_like(self._seen)])
                self._lengths = torch.cat([self._lengths, torch.empty_like(self._lengths)])
            self._seen[self._num_seen] = self._points[row].float()
            self._lengths[self._num_seen] = squared_lengths(self._seen[self._num_seen, None])[0]
            self._num_seen += 1
        if not self._num_seen or self._near <= 0.0:
            return False
        point = self._points[index : index + 1].float()
        num_seen = self._num_seen
        least = squared_distances(point, self._seen[:num_seen], self._lengths[:num_seen]).min()
        return bool(least < self._near**2)


def first_of(order: list[int], num: int, is_copy: Copies) -> list[int]:
    """The first `num` rows of an order without those that are copies of ones before them."""
    chosen: list[int] = []
    for row in order:
        if len(chosen) == num:
            break
        if not is_copy(row, chosen):
            chosen.append(row)
    return chosen
