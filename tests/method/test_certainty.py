"""The probability of being right: hand-computed curves, and scores whose truth is known."""

import math

import pytest
import torch

from cotrain_dist.method.certainty import LEAST_IMAGES, Certainty, fit_certainty


def test_all_right_is_never_certain() -> None:
    """With 20 right ones every target is 21 / 22, whatever the confidence."""
    confidences = torch.linspace(0.3, 1.0, 20)
    found = fit_certainty(confidences, torch.ones(20, dtype=torch.bool))
    assert found is not None
    assert found.of(confidences).tolist() == pytest.approx([21 / 22] * 20, abs=1e-4)


def two_groups(num_right_low: int, num_right_high: int) -> Certainty:
    """Ten images with a confidence of 0.5 and ten with 0.9, so many of each right."""
    confidences = torch.tensor([0.5] * 10 + [0.9] * 10)
    right = torch.cat([torch.arange(10) < num for num in (num_right_low, num_right_high)])
    found = fit_certainty(confidences, right)
    assert found is not None
    return found


def test_two_groups_by_hand() -> None:
    """A line goes through two points: each group gets the mean of its targets.

    14 right and 6 wrong: targets 15/16 and 1/8. Half right: 17/32. Nine of ten: 0.85625.
    """
    found = two_groups(5, 9)
    assert found.num_images == 20
    assert found.of(torch.tensor([0.5, 0.9])).tolist() == pytest.approx([17 / 32, 0.85625])
    # The logit of 0.5 is 0, that of 0.9 is ln 9.
    assert found.offset == pytest.approx(math.log(17 / 15), abs=1e-5)
    expected = (math.log(0.85625 / 0.14375) - found.offset) / math.log(9.0)
    assert found.slope == pytest.approx(expected, abs=1e-5)


def test_it_never_falls() -> None:
    """Nine of ten right below, five above: all get the mean of all targets."""
    found = two_groups(9, 5)
    assert found.slope == 0.0
    mean = (14 * 15 / 16 + 6 / 8) / 20
    assert found.of(torch.tensor([0.1, 0.5, 1.0])).tolist() == pytest.approx([mean] * 3)


def test_one_confidence_for_all() -> None:
    found = fit_certainty(torch.ones(30), torch.arange(30) < 15)
    assert found is not None
    assert found.of(torch.ones(1)).item() == pytest.approx(0.5)


def test_too_few_images_give_none() -> None:
    few = torch.rand(LEAST_IMAGES - 1)
    assert fit_certainty(few, few > 0.5) is None
    assert fit_certainty(torch.empty(0), torch.empty(0, dtype=torch.bool)) is None


def calibration_error(probabilities: torch.Tensor, is_right: torch.Tensor) -> float:
    """In ten bins of equal width, weighted by their images."""
    bins = (probabilities * 10).long().clamp(max=9)
    off = probabilities.double() - is_right.double()
    return float(torch.zeros(10).double().index_add_(0, bins, off).abs().sum() / len(off))


@pytest.mark.parametrize("num_labeled", [50, 500])
@pytest.mark.parametrize(("slope", "offset"), [(0.4, 0.0), (1.0, -1.5), (2.0, 1.0)])
def test_the_calibration_error_falls(num_labeled: int, slope: float, offset: float) -> None:
    """Scores that are right with a known probability: overconfident, too high, too low."""
    generator = torch.Generator().manual_seed(0)
    errors, before = [], []
    for _ in range(20):
        scores = torch.rand(num_labeled + 5000, generator=generator) * 4
        truth = (slope * scores + offset).sigmoid()
        right = torch.rand(len(truth), generator=generator) < truth
        confidences = scores.sigmoid()
        found = fit_certainty(confidences[:num_labeled], right[:num_labeled])
        assert found is not None
        rest, is_right = confidences[num_labeled:], right[num_labeled:]
        errors.append(calibration_error(found.of(rest), is_right))
        before.append(calibration_error(rest, is_right))
    assert sum(errors) < 0.6 * sum(before)
    assert sum(errors) / 20 < (0.08 if num_labeled == 50 else 0.03)
