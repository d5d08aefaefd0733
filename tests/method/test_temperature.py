"""Temperature: where the optimum is known by hand, and where there is none."""

import math

import pytest
import torch

from cotrain_dist.method.heads import NEVER
from cotrain_dist.method.temperature import LARGEST, LEAST, fit_temperature


def two_classes(gap: float, num_right: int, num_wrong: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that all say class 0 by the same gap; those that are wrong belong to class 1."""
    targets = torch.tensor([0] * num_right + [1] * num_wrong)
    return torch.tensor([[gap, 0.0]]).repeat(len(targets), 1), targets


@pytest.mark.parametrize("gap", [0.5, 2.0, 8.0])
def test_the_confidence_becomes_the_accuracy(gap: float) -> None:
    """1 / (1 + exp(-gap / t)) is least surprised by 3 of 4 at gap / t = ln 3."""
    found = fit_temperature(*two_classes(gap, 3, 1))
    assert found == pytest.approx(gap / math.log(3.0), rel=1e-5)


def test_two_kinds_of_rows_by_hand() -> None:
    """Gaps of 2 and 4, 3 of 4 right in both, and s(x) = 1 / (1 + exp(-x)).

    The derivative of the loss in 1 / t, 2 (s(2/t) - 3/4) + 4 (s(4/t) - 3/4), is 0 at the answer.
    """
    first, targets = two_classes(2.0, 3, 1)
    logits, targets = torch.cat([first, 2.0 * first]), torch.cat([targets, targets])
    found = fit_temperature(logits, targets)
    small, large = (1.0 / (1.0 + math.exp(-gap / found)) for gap in (2.0, 4.0))
    assert 2.0 * (small - 0.75) + 4.0 * (large - 0.75) == pytest.approx(0.0, abs=1e-4)


def test_a_factor_on_logits_is_one_on_the_temperature_and_a_shift_none() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, (200,), generator=generator)
    logits = torch.randn(200, 5, generator=generator) + torch.eye(5)[targets]
    found = fit_temperature(logits, targets)
    assert fit_temperature(3.0 * logits, targets) == pytest.approx(3.0 * found, rel=1e-5)
    shifted = logits + torch.randn(200, 1, generator=generator)
    assert fit_temperature(shifted, targets) == pytest.approx(found, rel=1e-5)


def test_it_stays_within_its_limits() -> None:
    assert fit_temperature(*two_classes(1.0, 5, 0)) == pytest.approx(LEAST, rel=1e-12)
    assert fit_temperature(*two_classes(1.0, 0, 5)) == pytest.approx(LARGEST, rel=1e-12)
    assert fit_temperature(*two_classes(1.0, 1, 1)) == pytest.approx(LARGEST, rel=1e-12)


def test_it_is_1_where_nothing_says_otherwise() -> None:
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)) == 1.0
    assert fit_temperature(torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)) == 1.0
    assert fit_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 1.0
    assert fit_temperature(*two_classes(1e5, 5, 0)) == 1.0, "no loss at any t"
    logits, targets = two_classes(2.0, 3, 1)
    logits[0, 1] = math.nan
    assert fit_temperature(logits, targets) == 1.0


def test_rows_of_a_class_that_the_model_cannot_name_are_left_out() -> None:
    logits, targets = two_classes(2.0, 3, 1)
    logits = torch.cat([logits, torch.full((4, 1), NEVER)], dim=1)
    unnamed = torch.tensor([[5.0, 1.0, NEVER]])
    found = fit_temperature(torch.cat([logits, unnamed]), torch.cat([targets, torch.tensor([2])]))
    assert found == pytest.approx(2.0 / math.log(3.0), rel=1e-5)
    assert fit_temperature(unnamed, torch.tensor([2])) == 1.0
