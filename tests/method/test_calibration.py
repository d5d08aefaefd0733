"""The search for a labeled fraction, on curves that are known."""

import math
from collections.abc import Callable

import pytest

from cotrain_dist.method.calibration import (
    Trial,
    bracket_of,
    fitted_accuracy,
    fraction_beside,
    nearest,
    next_fraction,
)


def trial(fraction: float, mean: float) -> Trial:
    return Trial(fraction, mean, 0.01, 4)


def line(fraction: float) -> float:
    """Accuracy whose logit is a line over the logarithm of the fraction; 50 % at 0.1."""
    return 1 / (1 + math.exp(-1.2 * math.log(fraction / 0.1)))


def search(
    curve: Callable[[float], float], first: float, target: float, limits: tuple[float, float]
) -> list[Trial]:
    trials = [trial(first, curve(first))]
    while len(trials) < 8:
        fraction = next_fraction(trials, target, *limits)
        if fraction is None:
            break
        trials.append(trial(fraction, curve(fraction)))
        if abs(trials[-1].mean - target) < 0.005:
            break
    return trials


@pytest.mark.parametrize("first", [0.005, 0.05, 0.1, 0.2, 0.39])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.65])
def test_a_line_is_found_in_few_trials(first: float, target: float) -> None:
    trials = search(line, first, target, (0.001, 0.4))
    assert len(trials) <= 5
    assert abs(nearest(trials, target).mean - target) < 0.005


def test_a_curve_that_saturates_is_found() -> None:
    trials = search(
        lambda fraction: 0.7 * (1 - math.exp(-fraction / 0.08)), 0.02, 0.5, (0.001, 0.4)
    )
    assert abs(nearest(trials, 0.5).mean - 0.5) < 0.01


def test_between_two_trials_the_next_lies_between() -> None:
    trials = [trial(0.05, 0.3), trial(0.2, 0.7)]
    fraction = next_fraction(trials, 0.5, 0.01, 0.4)
    assert fraction == pytest.approx(math.sqrt(0.05 * 0.2))  # logits are symmetric


def test_a_falling_pair_is_halved() -> None:
    """Trials scatter: the neighbor above may measure no more than the one below."""
    trials = [trial(0.05, 0.5), trial(0.2, 0.45), trial(0.3, 0.8)]
    assert bracket_of(trials, 0.6).below == trials[1]
    assert 0.2 < (next_fraction(trials, 0.6, 0.01, 0.4) or 0) < 0.3


def test_out_of_reach_at_either_end() -> None:
    assert next_fraction([trial(0.4, 0.3)], 0.5, 0.01, 0.4) is None
    assert next_fraction([trial(0.01, 0.9)], 0.5, 0.01, 0.4) is None
    assert next_fraction([trial(0.1, 0.3)], 0.5, 0.01, 0.4) == pytest.approx(0.16)
    assert next_fraction([trial(0.39, 0.3)], 0.5, 0.01, 0.4) == 0.4


def test_a_flat_line_does_not_hold_the_search_up() -> None:
    trials = search(lambda fraction: 0.2, 0.01, 0.5, (0.001, 0.4))
    assert trials[-1].fraction == 0.4
    fractions = [t.fraction for t in trials]
    assert fractions == sorted(fractions)


def test_a_share_that_labels_no_more_images_is_left_behind() -> None:
    limits = (0.01, 0.4)
    low, high = trial(0.05, 0.4), trial(0.2, 0.7)
    assert fraction_beside(0.06, [low], 0.5, *limits) == pytest.approx(0.06 * math.sqrt(1.6))
    assert fraction_beside(0.06, [low], 0.3, *limits) == pytest.approx(0.06 / math.sqrt(1.6))
    assert fraction_beside(0.39, [low], 0.5, *limits) == 0.4
    assert fraction_beside(0.4, [low], 0.5, *limits) is None
    assert fraction_beside(0.01, [low], 0.3, *limits) is None
    assert fraction_beside(0.06, [low, high], 0.5, *limits) == pytest.approx(0.1)
    assert fraction_beside(math.sqrt(0.05 * 0.2), [low, high], 0.5, *limits) is None


def test_bracket_and_nearest() -> None:
    trials = [trial(0.3, 0.7), trial(0.1, 0.4), trial(0.2, 0.55)]
    bracket = bracket_of(trials, 0.5)
    assert (bracket.below, bracket.above) == (trials[1], trials[2])
    assert nearest(trials, 0.5) == trials[2]
    assert bracket_of(trials, 0.9).above is None
    assert bracket_of(trials, 0.1).below is None
    assert nearest([trial(0.2, 0.6), trial(0.1, 0.4)], 0.5).fraction == 0.1


def test_the_fitted_curve_goes_through_a_line() -> None:
    trials = [trial(fraction, line(fraction)) for fraction in (0.02, 0.1, 0.3)]
    for fraction in (0.01, 0.05, 0.2):
        assert fitted_accuracy(trials, fraction) == pytest.approx(line(fraction))
    assert fitted_accuracy([trial(0.1, 0.4)], 0.3) == pytest.approx(0.4)
