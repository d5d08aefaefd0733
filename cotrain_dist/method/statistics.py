"""What several seeds say about a difference, and when a claim counts as shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

MIN_SEEDS = 3
"""Fewer decide nothing."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences over seeds and its t interval; points of accuracy."""

    mean: float
    low: float
    high: float
    num_seeds: int


def paired_interval(differences: Sequence[float]) -> Interval:
    """Student's t interval at 95 % of paired differences, one per seed; endless for a single one.

    >>> interval = paired_interval([1.0, 2.0, 3.0])
    >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
    (2.0, -0.484, 4.484)
    """
    # Paired: arms of a seed share its splits and first weights, whose scatter cancels in a
    # difference.
    num_seeds = len(differences)
    center = mean(differences)
    if num_seeds == 1:
        return Interval(center, -math.inf, math.inf, 1)
    from scipy.stats import t  # a second of import that other commands do not need

    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, num_seeds - 1))
    half = quantile * stdev(differences) / math.sqrt(num_seeds)
    return Interval(center, center - half, center + half, num_seeds)


def judge_gain(interval: Interval, smallest: float) -> str:
    """The verdict on a claim "X gains over Y", in which `smallest` points are worth the name.

    With three seeds or more: "holds" where the whole interval is above 0 and its mean reaches
    `smallest` (the interval may begin below it); "holds in direction, but smaller" where it is
    above 0 but the mean is smaller; "does not hold" where the whole interval is below `smallest`
    and reaches down to 0 or below; otherwise not decided.
    """
    if interval.num_seeds < MIN_SEEDS:
        return _too_few(interval)
    if interval.low > 0.0:
        return "holds" if interval.mean >= smallest else "holds in direction, but smaller"
    if interval.high < smallest:
        return "does not hold"
    return "not decided: the interval holds both no gain and the claimed one"


def judge_flat(interval: Interval, largest: float) -> str:
    """The verdict on a claim "X changes by at most `largest` points".

    With three seeds or more: "holds" where the whole interval lies within it, "does not hold" where
    the whole interval lies outside, otherwise not decided.
    """
    if interval.num_seeds < MIN_SEEDS:
        return _too_few(interval)
    if -largest <= interval.low and interval.high <= largest:
        return "holds"
    if interval.low > largest or interval.high < -largest:
        return "does not hold"
    return "not decided: the interval reaches over the limit"


def _too_few(interval: Interval) -> str:
    count = "one seed" if interval.num_seeds == 1 else f"{interval.num_seeds} seeds"
    return f"{count}, not decided"
