"""Figures on T, U and R, computed by hand."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from cotrain_dist.method.metrics import (
    Accuracy,
    AccuracyCounts,
    count_accuracy,
    measure_accuracy,
    no_accuracy,
    pseudo_label_accuracy,
)


def measure(probs: list[list[float]], targets: list[int]) -> Accuracy:
    return measure_accuracy(torch.tensor(probs), torch.tensor(targets))


def test_accuracy_by_hand() -> None:
    accuracy = measure(
        [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.75, 0.125, 0.125], [0.25, 0.25, 0.5]],
        [0, 1, 1, 2],
    )
    assert asdict(accuracy) == {
        "top1": 3 / 4,
        "top5": 1.0,  # three classes: any target is among the first five
        "mean_class_recall": pytest.approx((1 + 1 / 2 + 1) / 3),
        # two of confidence 1/2 both right, two of 3/4 one right: (|1 - 2| + |3/2 - 1|) / 4
        "calibration_error": pytest.approx(0.375),
    }


def test_top5_takes_the_five_most_probable() -> None:
    probs = [0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05]
    accuracy = measure([probs] * 7, list(range(7)))
    assert accuracy.top1 == pytest.approx(1 / 7)
    assert accuracy.top5 == pytest.approx(5 / 7)


def test_lower_class_id_comes_first_among_equals() -> None:
    accuracy = measure([[0.125] * 8] * 8, list(range(8)))
    assert accuracy.top1 == 1 / 8
    assert accuracy.top5 == 5 / 8
    assert accuracy.calibration_error == 0.0


def test_ties_behind_the_top_class() -> None:
    # class 6 leads; the ties put 0, 1, 2, 3 behind it and 4, 5 out of the five
    probs = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4]
    accuracy = measure([probs] * 7, list(range(7)))
    assert accuracy.top5 == pytest.approx(5 / 7)
    assert measure([probs], [3]).top5 == 1.0
    assert measure([probs], [4]).top5 == 0.0


def test_mean_class_recall_leaves_out_classes_that_do_not_occur() -> None:
    first, second = [0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]
    accuracy = measure([first, first, second, first], [0, 0, 0, 2])
    assert accuracy.mean_class_recall == pytest.approx((2 / 3 + 0) / 2)
    assert accuracy.top1 == 0.5


@pytest.mark.parametrize(
    ("confidences", "targets", "expected"),
    [
        ([1.0], [0], 0.0),
        ([1.0], [1], 1.0),
        ([0.55, 0.59], [0, 1], (0.55 + 0.59 - 1) / 2),  # one bin: (8/15, 9/15]
        ([0.53, 0.54], [0, 1], (0.47 + 0.54) / 2),  # two bins, cut at 8/15 = 0.533
        ([0.9, 0.9, 0.9, 0.6], [0, 0, 1, 0], (abs(2.7 - 2) + 0.4) / 4),
    ],
)
def test_calibration_error_by_hand(
    confidences: list[float], targets: list[int], expected: float
) -> None:
    accuracy = measure([[c, 1 - c] for c in confidences], targets)
    assert accuracy.calibration_error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "truth", "expected"),
    [
        ([5, 7, 0], [5, 7, 8], 2 / 3),
        ([5, 9], [5, -1], 1.0),
        ([5, 5], [-1, -1], None),
        ([], [], None),
    ],
)
def test_pseudo_label_accuracy(labels: list[int], truth: list[int], expected: float | None) -> None:
    found = pseudo_label_accuracy(
        torch.tensor(labels, dtype=torch.int64), torch.tensor(truth, dtype=torch.int64)
    )
    assert found == (None if expected is None else pytest.approx(expected))


def measured_in_floats(probs: Tensor, targets: Tensor) -> Accuracy:
    """By the definitions, in float64 over all images at once."""
    confidence, labels = probs.max(dim=1)
    right = (labels == targets).double()
    order = probs.argsort(dim=1, descending=True, stable=True)
    bins = (confidence.double() * 15).ceil().clamp(1, 15).long() - 1
    zeros = torch.zeros(15, dtype=torch.float64)
    gap = zeros.index_add(0, bins, confidence.double()) - zeros.index_add(0, bins, right)
    recall = [right[targets == class_id].mean() for class_id in targets.unique()]
    return Accuracy(
        top1=right.mean().item(),
        top5=(order[:, :5] == targets[:, None]).any(dim=1).double().mean().item(),
        mean_class_recall=torch.stack(recall).mean().item(),
        calibration_error=(gap.abs().sum() / len(targets)).item(),
    )


@pytest.mark.parametrize("num_classes", [2, 7, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
def test_parts_add_up_to_the_figures_of_all(num_classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = scale * torch.randn(3001, num_classes, generator=generator)
    targets = torch.randint(num_classes, (3001,), generator=generator)
    targets[::2] = logits[::2].argmax(dim=1)
    probs = logits.softmax(dim=1)
    counts = no_accuracy(num_classes)
    for rows in torch.randperm(3001, generator=generator).split(170):
        counts += count_accuracy(probs[rows], targets[rows])
    assert counts.num_images == 3001
    # Bits and not closeness: sums of whole numbers have one value, whatever the parts.
    assert counts.accuracy() == measure_accuracy(probs, targets)
    expected = measured_in_floats(probs, targets)
    found = counts.accuracy()
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    assert found.calibration_error == expected.calibration_error
    assert found.mean_class_recall == pytest.approx(expected.mean_class_recall, abs=1e-12)


def test_one_class_of_confidence_one_is_summed_exactly() -> None:
    # Of 2^24 + 1 sums in float32 the last one would be lost.
    part = count_accuracy(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    values = part.values * (2**24 + 1)
    assert AccuracyCounts(values).accuracy().calibration_error == 1.0
