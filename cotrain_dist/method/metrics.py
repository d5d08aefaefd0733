"""Accuracy and its relatives: what is measured on T, V and R."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotrain_dist.method.scores import LARGEST_UNCERTAINTY, decode_confidence
from cotrain_dist.method.thresholds import cut_of_each
from cotrain_dist.types import Votes

NUM_CALIBRATION_BINS = 15
NUM_CONFIDENCE_BINS = 10


@dataclass(frozen=True)
class Accuracy:
    """Figures of one classifier on one split, all 0..1."""

    top1: float
    top5: float
    mean_class_recall: float
    calibration_error: float


@dataclass(frozen=True)
class AccuracyCounts:
    """What the figures of an `Accuracy` are made of, in whole numbers: those of parts add up.

    values: [1 + 3 * 15 + 2 * C] int64: images whose class is among the first five; by bin of
    confidence the images called right, and the sum of confidences in units of 2^-20 and, of what
    is left, of 2^-40; by class the images, and those called right.
    """

    # Whole numbers, since sums of floats would depend on how the images are cut into parts.
    values: Tensor

    def __add__(self, other: "AccuracyCounts") -> "AccuracyCounts":
        return AccuracyCounts(self.values + other.values)

    @property
    def num_images(self) -> int:
        """How many images were counted."""
        return int(self._by_class[0].sum())

    def accuracy(self) -> Accuracy:
        """The figures; of no images there are none."""
        num_images, (num_by_class, num_right) = self.num_images, self._by_class
        return Accuracy(
            top1=int(num_right.sum()) / num_images,
            top5=int(self.values[0]) / num_images,
            # A class without images in this split is NaN; as a 0 it would lower the mean.
            mean_class_recall=(num_right.double() / num_by_class).nanmean().item(),
            calibration_error=self._calibration_error(num_images),
        )

    def _calibration_error(self, num_images: int) -> float:
        right, high, low = self.values[1 : 1 + 3 * NUM_CALIBRATION_BINS].reshape(3, -1)
        # In Python's numbers, which have no limit; divided once, so rounded once.
        pairs = zip(high.tolist(), low.tolist(), strict=True)
        sums = [((first << 20) + rest) / 2**40 for first, rest in pairs]
        # The definition weighs a bin's gap between two means by its images, which cancel out.
        gap = torch.tensor(sums, dtype=torch.float64) - right
        return float(gap.abs().sum()) / num_images

    @property
    def _by_class(self) -> Tensor:
        return self.values[1 + 3 * NUM_CALIBRATION_BINS :].reshape(2, -1)


def no_accuracy(num_classes: int) -> AccuracyCounts:
    """The counts of no images."""
    size = 1 + 3 * NUM_CALIBRATION_BINS + 2 * num_classes
    return AccuracyCounts(torch.zeros(size, dtype=torch.int64))


def count_accuracy(probs: Tensor, targets: Tensor) -> AccuracyCounts:
    """The counts of a part. probs: [N, C] float, rows sum to 1; targets: [N] int64."""
    num_classes = probs.shape[1]
    confidence, labels = probs.max(dim=1)
    right = labels == targets
    target_probs = probs.gather(1, targets[:, None])
    class_ids = torch.arange(num_classes)
    ahead = (probs > target_probs) | ((probs == target_probs) & (class_ids < targets[:, None]))
    bins = _calibration_bin(confidence.double())
    # Exact for a float32 that is at least 1/65,535, as the largest of so many classes is.
    scaled = (confidence.double() * 2**40).round().long()
    by_bin = torch.stack([right.long(), scaled >> 20, scaled & (2**20 - 1)])
    sums = torch.zeros(3, NUM_CALIBRATION_BINS, dtype=torch.int64).index_add(1, bins, by_bin)
    num_images = torch.bincount(targets, minlength=num_classes)
    num_right = torch.bincount(targets[right], minlength=num_classes)
    num_top5 = (ahead.sum(dim=1) < 5).sum()[None]
    return AccuracyCounts(torch.cat([num_top5, sums.flatten(), num_images, num_right]))


def measure_accuracy(probs: Tensor, targets: Tensor) -> Accuracy:
    """probs: [N, C] float, rows sum to 1; targets: [N] int64. N must not be 0.

    Top-5 counts the five (or, with fewer classes, all) most probable classes; of equal
    probabilities the lower class id comes first, so that a constant model scores what it should.
    Mean per-class recall averages over the classes that occur. Calibration error: expected
    calibration error over 15 equal bins of confidence (Guo et al. 2017).
    """
    # Top-1 flatters on long-tailed data such as Caltech-101, so recall by class stands beside it.
    return count_accuracy(probs, targets).accuracy()


def class_recall(labels: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Share of each class's images that are called by its name, [C] float64; NaN without images."""
    num_images = torch.bincount(targets, minlength=num_classes)
    num_right = torch.bincount(targets[labels == targets], minlength=num_classes)
    return num_right.double() / num_images


@dataclass(frozen=True)
class Confusion:
    """How many images of one class were called by another's name."""

    true: int
    called: int
    count: int


def most_confused(labels: Tensor, targets: Tensor, num_pairs: int) -> list[Confusion]:
    """The pairs of classes confused most often, the largest first; of equals the lower ids."""
    wrong = labels != targets
    pairs = torch.stack([targets[wrong], labels[wrong]], dim=1)
    found, counts = pairs.unique(dim=0, return_counts=True)
    # unique() has sorted the pairs; a stable sort leaves the lower ids first among equal counts.
    order = counts.argsort(descending=True, stable=True)[:num_pairs]
    return [
        Confusion(int(found[index, 0]), int(found[index, 1]), int(counts[index])) for index in order
    ]


def _calibration_bin(confidence: Tensor) -> Tensor:
    # Bins are open below and closed above, as in the source; a confidence of 0 joins the first one.
    return (confidence * NUM_CALIBRATION_BINS).ceil().clamp(1, NUM_CALIBRATION_BINS).long() - 1


def pseudo_label_accuracy(labels: Tensor, truth: Tensor) -> float | None:
    """Fraction of an R that is labeled right; None where it is empty or true labels are unknown.

    labels: [K] int64; truth: [K] int64, -1 where unknown.
    """
    num_known = int((truth >= 0).sum())
    # A label is never -1, so an unknown class is not right.
    return int((labels == truth).sum()) / num_known if num_known else None


@dataclass(frozen=True)
class PoolCounts:
    """What both models call a part of U, in numbers of images: those of parts add up.

    values: [3 + 8 * (10 + C)] int64: images; those on which both name one class; those where a
    model's code equals the threshold's; then images whose true class is known, by `agree` (one
    class from both) and `differ`, role, wrong and right, and confidence in tenths from 0 to 1;
    then the same by the class that the role's model names.
    """

    values: Tensor

    def __add__(self, other: "PoolCounts") -> "PoolCounts":
        return PoolCounts(self.values + other.values)

    @property
    def agreement_rate(self) -> float:
        """Fraction on which A and B name the same class; images not scored count as differing."""
        num_images, num_agreeing = self.values[:2].tolist()
        return num_agreeing / num_images if num_images else math.nan

    @property
    def num_equal_codes(self) -> int:
        """Images where a model's code equals the threshold's, so that it is neither."""
        return int(self.values[2])

    def describe(self) -> dict[str, dict[str, list[int]]] | None:
        """What both call U, against its true labels; None where those are unknown.

        For `agree` and `differ`, and for each role: numbers of images and of right ones, by
        confidence in tenths and by the class that the role's model names.
        """
        by_tenth, by_class = (
            part.reshape(2, 2, 2, -1)
            for part in self.values[3:].split([8 * NUM_CONFIDENCE_BINS, self._num_by_class])
        )
        if not by_tenth.any():
            return None
        return {
            f"{name}_{role}": {
                "num_images": by_tenth[i, j].sum(dim=0).tolist(),
                "num_right": by_tenth[i, j, 1].tolist(),
                "num_images_by_class": by_class[i, j].sum(dim=0).tolist(),
                "num_right_by_class": by_class[i, j, 1].tolist(),
            }
            for i, name in enumerate(("agree", "differ"))
            for j, role in enumerate("ab")
        }

    @property
    def _num_by_class(self) -> int:
        return len(self.values) - 3 - 8 * NUM_CONFIDENCE_BINS


def no_counts(num_classes: int) -> PoolCounts:
    """Those of no images."""
    return PoolCounts(torch.zeros(3 + 8 * (NUM_CONFIDENCE_BINS + num_classes), dtype=torch.int64))


def count_pool(votes: Votes, true_labels: Tensor, num_classes: int, *, cuts: Tensor) -> PoolCounts:
    """The counts of a part of U. true_labels: [N] int64, -1 where unknown.

    cuts: codes of 1 - τ, [rows, C] or [rows, 1] int16 (`method.thresholds`).
    """
    # numpy counts and compares 16-bit integers; torch would make 64-bit ones of them before.
    labels, codes = votes.labels[:2].numpy(), votes.uncertainty[:2].numpy()
    is_valid = (codes <= LARGEST_UNCERTAINTY).all(axis=0)
    # Label 0 stands in for an image that was not scored: two of them would look like agreement.
    agree = labels[0] == labels[1]
    has_equal_code = np.zeros(len(agree), dtype=np.bool_)
    for row in range(len(codes)):
        has_equal_code |= codes[row] == cut_of_each(cuts, votes, row).numpy()
    totals = [len(agree), np.count_nonzero(agree & is_valid), np.count_nonzero(has_equal_code)]
    truth = true_labels.numpy()
    # An unknown class becomes 65,535 here, the one id that no class has.
    right = labels == truth.astype(np.uint16)
    # Bits: differs, role, right. Images without a true class or a score are group 8.
    groups = right.view(np.uint8) + np.array([[0], [2]], dtype=np.uint8)
    groups += (~agree).view(np.uint8) << np.uint8(2)
    groups[:, ~(is_valid & (truth >= 0))] = 8
    tenths = _TENTHS.take(codes, mode="clip")
    return PoolCounts(
        torch.cat(
            [
                torch.tensor(totals),
                _count_in_groups(groups, tenths, NUM_CONFIDENCE_BINS),
                _count_in_groups(groups, labels, num_classes),
            ]
        )
    )


def _count_in_groups(groups: NDArray[Any], values: NDArray[Any], num_values: int) -> Tensor:
    """How often each value occurs in each of groups 0 to 7, [8 * num_values] int64."""
    places = np.multiply(groups, num_values, dtype=np.int64)
    places += values
    return torch.from_numpy(np.bincount(places.ravel(), minlength=9 * num_values)[: 8 * num_values])


def _tenth_of_confidence(uncertainty: Tensor) -> Tensor:
    return (
        (decode_confidence(uncertainty) * NUM_CONFIDENCE_BINS)
        .long()
        .clamp(0, NUM_CONFIDENCE_BINS - 1)  # a confidence of 1 is in the last tenth
    )


# By code: looked up, since the arithmetic takes longer than all of the counting.
_TENTHS = (
    _tenth_of_confidence(torch.arange(LARGEST_UNCERTAINTY + 1, dtype=torch.int16))
    .to(torch.uint8)
    .numpy()
)


def histogram(values: Tensor, num_bins: int) -> list[int]:
    """How often each of 0 .. num_bins - 1 occurs in values, [N] int64."""
    counts: list[int] = torch.bincount(values, minlength=num_bins).tolist()
    return counts
