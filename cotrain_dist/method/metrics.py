"""Accuracy and its relatives: what is measured on T, V and R."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cotrain_dist.method.scores import LARGEST_UNCERTAINTY, decode_confidence
from cotrain_dist.types import PseudoLabeled, Votes

NUM_CALIBRATION_BINS = 15
NUM_CONFIDENCE_BINS = 10


@dataclass(frozen=True)
class Accuracy:
    """Figures of one classifier on one split, all 0..1."""

    top1: float
    top5: float
    mean_class_recall: float
    calibration_error: float


def measure_accuracy(probs: Tensor, targets: Tensor) -> Accuracy:
    """probs: [N, C] float, rows sum to 1; targets: [N] int64. N must not be 0.

    Top-5 counts the five (or, with fewer classes, all) most probable classes; of equal
    probabilities the lower class id comes first, so that a constant model scores what it should.
    Mean per-class recall averages over the classes that occur. Calibration error: expected
    calibration error over 15 equal bins of confidence (Guo et al. 2017).
    """
    # Top-1 flatters on long-tailed data such as Caltech-101, so recall by class stands beside it.
    confidence, labels = probs.max(dim=1)
    right = labels == targets
    target_probs = probs.gather(1, targets[:, None])
    class_ids = torch.arange(probs.shape[1])
    ahead = (probs > target_probs) | ((probs == target_probs) & (class_ids < targets[:, None]))
    return Accuracy(
        top1=right.double().mean().item(),
        top5=(ahead.sum(dim=1) < 5).double().mean().item(),
        # A class without images in this split is NaN; as a 0 it would lower the mean.
        mean_class_recall=class_recall(labels, targets, probs.shape[1]).nanmean().item(),
        calibration_error=_calibration_error(confidence.double(), right.double()),
    )


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


def _calibration_error(confidence: Tensor, right: Tensor) -> float:
    # Bins are open below and closed above, as in the source; a confidence of 0 joins the first one.
    bins = (confidence * NUM_CALIBRATION_BINS).ceil().clamp(1, NUM_CALIBRATION_BINS).long() - 1
    zeros = torch.zeros(NUM_CALIBRATION_BINS, dtype=torch.float64)
    # The definition weighs a bin's gap between two means by its images; their number cancels out.
    gap = zeros.index_add(0, bins, confidence) - zeros.index_add(0, bins, right)
    return (gap.abs().sum() / len(confidence)).item()


def agreement_rate(votes: Votes) -> float:
    """Share of U on which A and B name the same class; images not scored count as differing."""
    valid = (votes.uncertainty <= LARGEST_UNCERTAINTY).all(dim=0)
    # Label 0 stands in for an image that was not scored: two of them would look like agreement.
    return ((votes.labels[0] == votes.labels[1]) & valid).double().mean().item()


def pseudo_label_accuracy(selected: PseudoLabeled, true_labels: Tensor) -> float | None:
    """Share of an R that is labeled right; None where R is empty or true labels are unknown.

    true_labels: [number of images] int64, by sample_id; -1 where unknown.
    """
    truth = true_labels[selected.sample_ids]
    known = truth >= 0
    if not known.any():
        return None
    return (selected.labels[known] == truth[known]).double().mean().item()


def describe_pool(
    votes: Votes, true_labels: Tensor, num_classes: int
) -> dict[str, dict[str, list[int]]] | None:
    """What both models call U, against its true labels; None where those are unknown.

    true_labels: [N] int64, -1 where unknown (such images are left out). For `agree` (one class from
    both) and `differ`, and for each role: numbers of images and of right ones, [10] by confidence
    in tenths from 0 to 1, and [num_classes] by the class that the role's model names.
    """
    known = (true_labels >= 0) & (votes.uncertainty <= LARGEST_UNCERTAINTY).all(dim=0)
    if not known.any():
        return None
    # torch neither counts nor indexes with uint16.
    labels, truth = votes.labels.to(torch.int64)[:, known], true_labels[known]
    tenth = _tenth_of_confidence(votes.uncertainty[:, known])
    agree = labels[0] == labels[1]
    described = {}
    for name, mask in (("agree", agree), ("differ", ~agree)):
        for role, (called, bins) in zip("ab", zip(labels, tenth, strict=True), strict=True):
            right = mask & (called == truth)
            described[f"{name}_{role}"] = {
                "num_images": histogram(bins[mask], NUM_CONFIDENCE_BINS),
                "num_right": histogram(bins[right], NUM_CONFIDENCE_BINS),
                "num_images_by_class": histogram(called[mask], num_classes),
                "num_right_by_class": histogram(called[right], num_classes),
            }
    return described


def _tenth_of_confidence(uncertainty: Tensor) -> Tensor:
    return (
        (decode_confidence(uncertainty) * NUM_CONFIDENCE_BINS)
        .long()
        .clamp(0, NUM_CONFIDENCE_BINS - 1)  # a confidence of 1 is in the last tenth
    )


def histogram(values: Tensor, num_bins: int) -> list[int]:
    """How often each of 0 .. num_bins - 1 occurs in values, [N] int64."""
    counts: list[int] = torch.bincount(values, minlength=num_bins).tolist()
    return counts
