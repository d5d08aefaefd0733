"""Figures on T, U and R, computed by hand."""

from dataclasses import asdict

import pytest
import torch

from cotrain_dist.method.metrics import (
    Accuracy,
    measure_accuracy,
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
