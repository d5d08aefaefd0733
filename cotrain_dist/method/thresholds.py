"""What a vote has to beat: one cut for all classes, cuts of each class, the surest of each class.

A cut is the 16-bit code of 1 - τ, which the code of a vote is compared with. Cuts that follow the
models are made of whole numbers that parts of U add up to, so every world has the same.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cotrain_dist.method.scores import LARGEST_UNCERTAINTY, encode_uncertainty, threshold_code
from cotrain_dist.types import Votes

NUM_ROWS = 3
"""Who votes: A, B, and the mean of both, where there is one."""

NO_CUT = LARGEST_UNCERTAINTY + 1
"""Above the code of every image that was scored, so that all of these are sure."""

UNITS = 1 << 24
"""Every uncertainty is a whole number of 1 / UNITS, the smallest float16 above 0."""


def fixed_cuts(threshold: float | None) -> Tensor:
    """One cut for all classes and rows of votes, [3, 1] int16; None: all that was scored is sure.

    >>> fixed_cuts(0.5).tolist()
    [[14336], [14336], [14336]]
    """
    code = NO_CUT if threshold is None else threshold_code(threshold)
    return torch.full((NUM_ROWS, 1), code, dtype=torch.int16)


def cut_of_each(cuts: Tensor, votes: Votes, row: int) -> Tensor:
    """The cut of the class that a row of votes names for each image, [n], or [1] for all.

    cuts: [rows, C] int16, or [rows, 1] where all classes share one; votes.labels: [rows, n] uint16.
    """
    if cuts.shape[1] == 1:
        return cuts[row]
    # numpy takes 16-bit places as they are; torch would make 64-bit ones of them before.
    return torch.from_numpy(cuts[row].numpy().take(votes.labels[row].numpy()))


@dataclass(frozen=True)
class ClassCounts:
    """Which classes votes on a part of U name, and how surely, in whole numbers: parts add up.

    values: [rows, 2 + 2 * C] int64: images that were scored; the sum of their uncertainties in
    1 / UNITS; by class the images that it is the top class of; by class those of them that are
    surer than the threshold.
    """

    values: Tensor

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        return ClassCounts(self.values + other.values)

    @property
    def num_images(self) -> Tensor:
        """[rows, 1] int64."""
        return self.values[:, :1]

    @property
    def mean_confidence(self) -> Tensor:
        """[rows, 1] float64; 1 without images."""
        return 1.0 - self.values[:, 1:2].double() / UNITS / self.num_images.clamp_min(1)

    @property
    def num_named(self) -> Tensor:
        """[rows, C] int64."""
        return self.values[:, 2:].chunk(2, dim=1)[0]

    @property
    def num_sure(self) -> Tensor:
        """[rows, C] int64."""
        return self.values[:, 2:].chunk(2, dim=1)[1]


def no_class_counts(num_rows: int, num_classes: int) -> ClassCounts:
    """Those of no images."""
    return ClassCounts(torch.zeros(num_rows, 2 + 2 * num_classes, dtype=torch.int64))


def count_classes(votes: Votes, num_classes: int, *, threshold: float | None) -> ClassCounts:
    """The counts of a part of U. votes: [rows, n]. threshold None: nothing counts as sure."""
    cut = 0 if threshold is None else threshold_code(threshold)
    counts = []
    for labels, codes in zip(votes.labels.numpy(), votes.uncertainty.numpy(), strict=True):
        is_scored = codes <= LARGEST_UNCERTAINTY
        total = _UNITS_OF_CODE.take(codes[is_scored]).sum()
        named = np.bincount(labels[is_scored], minlength=num_classes)
        sure = np.bincount(labels[codes < cut], minlength=num_classes)
        counts.append(np.concatenate([[np.count_nonzero(is_scored), total], named, sure]))
    return ClassCounts(torch.from_numpy(np.stack(counts)))


# By code: looked up, which is faster than the arithmetic.
_UNITS_OF_CODE = (
    (torch.arange(LARGEST_UNCERTAINTY + 1, dtype=torch.int16).view(torch.float16).double() * UNITS)
    .to(torch.int64)
    .numpy()
)


def adapt_cuts(counts: ClassCounts, policy: str, threshold: float | None) -> Tensor:
    """The cuts of each row of votes on U, [rows, C] int16, as `selection.threshold_policy` says."""
    match policy:
        case "flex":
            assert threshold is not None
            return flex_cuts(counts, threshold)
        case "free":
            return free_cuts(counts)
        case _:
            raise AssertionError(f"selection.threshold_policy {policy} has cuts without votes")


def flex_cuts(counts: ClassCounts, threshold: float) -> Tensor:
    """Cuts that are lower for classes that few images are sure of, [rows, C] int16.

    FlexMatch (arXiv 2110.08263), of all of U at once: τ(c) = τ β(c) / (2 - β(c)) with
    β(c) = n(c) / max(max n, N - Σn), where n(c) images of N have c as their top class and a
    confidence above τ. A model that is sure of nothing has a τ(c) of 0, so all of U is above it.
    """
    sure = counts.num_sure
    num_unused = counts.num_images - sure.sum(dim=1, keepdim=True)
    largest = torch.maximum(sure.amax(dim=1, keepdim=True), num_unused).clamp_min(1)
    # Of whole numbers, divided and multiplied by element: the same bits on every machine.
    learned = sure.double() / largest
    return encode_uncertainty(threshold * learned / (2.0 - learned))


def free_cuts(counts: ClassCounts) -> Tensor:
    """Cuts that follow how sure a model is, and how often it names a class, [rows, C] int16.

    FreeMatch (arXiv 2205.07246), of all of U at once in place of running means over batches:
    τ(c) = τ p(c) / max p, where τ is the mean over U of the largest probability and p(c) the share
    of images whose top class is c.
    """
    named = counts.num_named.double()
    largest = named.amax(dim=1, keepdim=True).clamp_min(1.0)
    return encode_uncertainty(counts.mean_confidence * named / largest)


PLACE_BITS, CODE_BITS = 33, 14
CLASS_BITS = 16


def ranking_keys(labels: Tensor, uncertainty: Tensor, places: Tensor) -> Tensor:
    """One number for each image, by which those of a class ascend from the surest, [n] int64.

    labels: [n] uint16; uncertainty: [n] int16, codes of images that were scored; places: [n] int64,
    in U, below 2**33: of equally sure images the lower one comes first.
    """
    by_class = labels.to(torch.int64) << (PLACE_BITS + CODE_BITS)
    return by_class | uncertainty.to(torch.int64) << PLACE_BITS | places


def class_limits(keys: Tensor, num_per_class: int) -> Tensor:
    """The key of the last image that each class keeps of its surest ones, [65,536] int64.

    keys: [n] int64 of `ranking_keys`, in any order. A class that has no more keeps all.
    """
    ordered = np.sort(keys.numpy())
    starts = np.arange(1 << CLASS_BITS, dtype=np.int64) << (PLACE_BITS + CODE_BITS)
    first = ordered.searchsorted(starts)
    limits = np.full(len(starts), np.iinfo(np.int64).max)
    # A place within the class, or in one that follows: its key is then above all of the class.
    last = first + num_per_class - 1
    is_known = last < len(ordered)
    limits[is_known] = ordered[last[is_known]]
    return torch.from_numpy(limits)


def within_limits(keys: Tensor, limits: Tensor) -> Tensor:
    """Whether each image is among the surest of its class, [n] bool."""
    return keys <= limits[keys >> (PLACE_BITS + CODE_BITS)]
