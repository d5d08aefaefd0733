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


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's t interval at 95 % of a mean over seeds; the arithmetic of `paired_interval`."""
    return paired_interval(values)


NORMAL_QUANTILE = 1.959964
"""Of 97.5 %."""


def wilson_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """The 95 % interval of a fraction that was counted (Wilson, 1927): it stays within 0 and 1.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)
    """
    fraction, square = num_right / num_images, NORMAL_QUANTILE**2 / num_images
    center = (fraction + square / 2) / (1 + square)
    variance = fraction * (1 - fraction) / num_images + square / (4 * num_images)
    half = NORMAL_QUANTILE * math.sqrt(variance) / (1 + square)
    return max(0.0, center - half), min(1.0, center + half)


NUM_RESAMPLES = 10_000
"""Of the bootstrap: limits then move by about a hundredth of the interval."""


def gap_closed(
    arm: Sequence[float], base: Sequence[float], ceiling: Sequence[float]
) -> Interval | None:
    """The share of the way from base to ceiling that an arm has gone: sums over paired seeds.

    Σ(arm - base) / Σ(ceiling - base), with the 95 % interval of a bootstrap over seeds. None where
    base and ceiling are not apart (the t interval of their difference holds 0, or one seed).

    >>> gap_closed([0.7, 0.8, 0.75], [0.6, 0.7, 0.65], [0.8, 0.9, 0.85]).mean.__round__(3)
    0.5
    """
    ways = [top - own for top, own in zip(ceiling, base, strict=True)]
    if paired_interval(ways).low <= 0.0:
        return None
    gains = [own - low for own, low in zip(arm, base, strict=True)]
    import numpy as np

    # A fixed draw: the same results give the same report.
    draws = np.random.default_rng(0).integers(len(ways), size=(NUM_RESAMPLES, len(ways)))
    shares = np.array(gains)[draws].sum(axis=1) / np.array(ways)[draws].sum(axis=1)
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(shares, [tail, 100.0 - tail])
    return Interval(sum(gains) / sum(ways), float(low), float(high), len(ways))


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
