"""Intervals over seeds, and the rules of the verdicts."""

import math

import pytest

from cotrain_dist.method.statistics import Interval, judge_flat, judge_gain, paired_interval


def test_interval_by_hand() -> None:
    """Deviation 2, three seeds: half-width 4.3027 * 2 / sqrt(3)."""
    interval = paired_interval([3.0, 5.0, 7.0])
    assert interval.mean == 5.0
    assert interval.high - interval.mean == pytest.approx(4.30265 * 2 / math.sqrt(3), rel=1e-5)
    assert interval.mean - interval.low == pytest.approx(interval.high - interval.mean)
    assert interval.num_seeds == 3


def test_equal_differences_leave_no_uncertainty() -> None:
    interval = paired_interval([1.5, 1.5, 1.5, 1.5])
    assert (interval.low, interval.high) == (1.5, 1.5)


def test_one_seed_has_no_limits() -> None:
    assert paired_interval([4.0]) == Interval(4.0, -math.inf, math.inf, 1)


@pytest.mark.parametrize(
    ("mean", "low", "high", "verdict"),
    [
        (6.0, 1.0, 11.0, "holds"),
        (5.0, 0.1, 9.9, "holds"),
        (2.0, 0.5, 3.5, "holds in direction, but smaller"),
        (0.5, -1.0, 2.0, "does not hold"),
        (-3.0, -5.0, -1.0, "does not hold"),
        (4.0, -1.0, 9.0, "not decided: the interval holds both no gain and the claimed one"),
        (0.0, 0.0, 5.0, "not decided: the interval holds both no gain and the claimed one"),
    ],
)
def test_a_gain_of_five_points(mean: float, low: float, high: float, verdict: str) -> None:
    assert judge_gain(Interval(mean, low, high, 3), smallest=5.0) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-2.0, 2.0, "holds"),
        (-0.5, 1.0, "holds"),
        (2.1, 4.0, "does not hold"),
        (-9.0, -2.1, "does not hold"),
        (-1.0, 2.1, "not decided: the interval reaches over the limit"),
    ],
)
def test_flat_within_two_points(low: float, high: float, verdict: str) -> None:
    assert judge_flat(Interval((low + high) / 2, low, high, 3), largest=2.0) == verdict


@pytest.mark.parametrize(("num_seeds", "count"), [(1, "one seed"), (2, "2 seeds")])
def test_fewer_than_three_seeds_decide_nothing(num_seeds: int, count: str) -> None:
    sure = Interval(9.0, 8.0, 10.0, num_seeds)
    assert judge_gain(sure, 1.0) == f"{count}, not decided"
    assert judge_flat(sure, 1.0) == f"{count}, not decided"
