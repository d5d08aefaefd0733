"""The sign test by hand."""

import pytest
import torch

from cotrain_dist.method.promise import SignTest, shows_no_loss, sign_test


def bits(num_both: int, num_gained: int, num_lost: int, num_neither: int) -> list[torch.Tensor]:
    """Right before and after: images of each kind."""
    before = [True] * num_both + [False] * num_gained + [True] * num_lost + [False] * num_neither
    after = [True] * num_both + [True] * num_gained + [False] * num_lost + [False] * num_neither
    return [torch.tensor(before, dtype=torch.bool), torch.tensor(after, dtype=torch.bool)]


@pytest.mark.parametrize(
    ("num_gained", "num_lost", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1 / 2),
        (0, 1, 1.0),
        (3, 0, 1 / 8),
        (4, 0, 1 / 16),
        (4, 1, 6 / 32),  # 5 ways to lose one, and 1 to lose none
        (5, 1, 7 / 64),
        (6, 1, 8 / 128),
        (1, 1, 3 / 4),
        (0, 4, 1.0),
        (7, 3, 176 / 1024),
    ],
)
def test_p_values_by_hand(num_gained: int, num_lost: int, p_value: float) -> None:
    found = sign_test(*bits(5, num_gained, num_lost, 3))
    assert found == SignTest(num_gained, num_lost, p_value)
    assert shows_no_loss(*bits(5, num_gained, num_lost, 3)) == (p_value <= 0.1)


def test_who_is_right_on_the_same_images_does_not_pass() -> None:
    assert not shows_no_loss(*bits(100, 0, 0, 100))
    assert not shows_no_loss(*bits(0, 0, 0, 0))


def test_the_confidence_that_is_asked_for() -> None:
    assert not shows_no_loss(*bits(0, 3, 0, 0))
    assert shows_no_loss(*bits(0, 3, 0, 0), confidence=0.875), "p is 1/8: at most that"
    assert not shows_no_loss(*bits(0, 4, 0, 0), confidence=0.95)


def test_many_images_agree_with_the_normal_curve() -> None:
    assert sign_test(*bits(0, 2060, 1940, 0)).p_value == pytest.approx(0.0299, abs=5e-4)
    assert sign_test(*bits(0, 5_000, 5_000, 0)).p_value == pytest.approx(0.504, abs=1e-3)


def test_equal_models_pass_in_at_most_one_of_ten_cases() -> None:
    """The sum over all outcomes that pass, each with its probability."""
    from math import comb

    for num in range(1, 40):
        passing = [g for g in range(num + 1) if shows_no_loss(*bits(0, g, num - g, 0))]
        assert sum(comb(num, g) for g in passing) / 2**num <= 0.1
        if num >= 4:
            assert passing


def test_only_masks_of_the_same_images_are_compared() -> None:
    with pytest.raises(AssertionError):
        sign_test(torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
    with pytest.raises(AssertionError):
        sign_test(torch.ones(2), torch.ones(2))
