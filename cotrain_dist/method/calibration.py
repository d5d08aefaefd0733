"""Which labeled fraction to try next, until pre-trained models stand at a wanted accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cotrain_dist.errors import UserError

FIRST_FACTOR = 1.6
"""Factor on the fraction after a first trial."""

NEAR, FAR = 0.5, 4
"""Powers of it: the least and the largest step while all trials lie on one side."""


@dataclass(frozen=True)
class Goal:
    """What is looked for, and the budget."""

    target: float
    """Accuracy on T, 0..1, mean of A and B."""
    tolerance: float
    """The search ends once a trial's mean is so near."""
    num_draws: int
    """Draws of the splits (and of first weights) per trial."""
    max_trials: int


@dataclass(frozen=True)
class Trial:
    """Mean accuracy (0..1) of both models over some draws at one fraction, and its spread."""

    fraction: float
    mean: float
    deviation: float
    num_models: int


@dataclass(frozen=True)
class Bracket:
    """The neighboring trials around the target; None on a side without one."""

    below: Trial | None
    above: Trial | None


def bracket_of(trials: Sequence[Trial], target: float) -> Bracket:
    """The largest fraction that stays below the target, the smallest above it that reaches it.

    Trials scatter, so a larger fraction may measure lower: the pair is the neighboring one at the
    first crossing.
    """
    ordered = sorted(trials, key=lambda trial: trial.fraction)
    below = None
    for trial in ordered:
        if trial.mean >= target:
            return Bracket(below, trial)
        below = trial
    return Bracket(below, None)


def nearest(trials: Sequence[Trial], target: float) -> Trial:
    """The trial whose mean is nearest to the target; of equals the smaller fraction."""
    return min(trials, key=lambda trial: (abs(trial.mean - target), trial.fraction))


def next_fraction(
    trials: Sequence[Trial], target: float, smallest: float, largest: float
) -> float | None:
    """The fraction to try next, or None where the target lies outside [smallest, largest].

    Between two trials that bracket the target: where the line through them, in logarithm of
    fraction and logit of accuracy (accuracy grows about so), meets it. On one side of it: along the
    line through the two outermost trials, within the limits of a step.
    """
    found = bracket_of(trials, target)
    if found.below is not None and found.above is not None:
        return _meeting(found.below, found.above, target)
    ordered = sorted(trials, key=lambda trial: trial.fraction)
    outer = ordered[-1] if found.above is None else ordered[0]
    grows = found.above is None
    if outer.fraction >= largest if grows else outer.fraction <= smallest:
        # A trial at the limit is not enough: no fraction beyond it can be drawn.
        return None
    factor = FIRST_FACTOR if grows else 1 / FIRST_FACTOR
    fraction = outer.fraction * factor
    if len(ordered) > 1:
        low, high = (ordered[-2], outer) if grows else (outer, ordered[1])
        fraction = outer.fraction * factor**FAR  # where the line is flat or falls
        if high.mean > low.mean:
            near, far = sorted((outer.fraction * factor**NEAR, fraction))
            fraction = min(max(_meeting(low, high, target), near), far)
    return min(max(fraction, smallest), largest)


def fraction_beside(
    fraction: float, trials: Sequence[Trial], target: float, smallest: float, largest: float
) -> float | None:
    """A fraction to try where `fraction` would label as many images as one tried before.

    Between two trials that bracket the target the middle, then None; on one side of it a little
    farther towards it, and None at the limit.
    """
    found = bracket_of(trials, target)
    if found.below is not None and found.above is not None:
        # The middle on a logarithmic scale, the one on which `_meeting` draws its line.
        middle = math.sqrt(found.below.fraction * found.above.fraction)
        return middle if fraction != middle else None
    if fraction == (largest if found.above is None else smallest):
        return None
    step: float = FIRST_FACTOR**NEAR
    farther = fraction * step if found.above is None else fraction / step
    return min(max(farther, smallest), largest)


def _meeting(low: Trial, high: Trial, target: float) -> float:
    """The fraction at which the line through two trials reaches the target."""
    rise = _logit(high.mean) - _logit(low.mean)
    if rise <= 0.0:
        # Trials scatter, so the larger fraction may have measured no more: no line leads to the
        # target.
        return math.sqrt(low.fraction * high.fraction)
    part = (_logit(target) - _logit(low.mean)) / rise
    return math.exp(
        math.log(low.fraction) + part * (math.log(high.fraction) - math.log(low.fraction))
    )


def _logit(accuracy: float) -> float:
    # A logit of 0 or 1 is infinite, and a trial of few images may well measure either.
    clipped = min(max(accuracy, 1e-3), 1.0 - 1e-3)
    return math.log(clipped / (1.0 - clipped))


def fitted_accuracy(trials: Sequence[Trial], fraction: float) -> float:
    """The curve: logit of accuracy as a line over the logarithm of fraction, by least squares.

    trials: at least one; with a single fraction, its mean.
    """
    xs = [math.log(trial.fraction) for trial in trials]
    ys = [_logit(trial.mean) for trial in trials]
    center_x, center_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - center_x) ** 2 for x in xs)
    slope = 0.0
    if spread > 0.0:
        slope = sum((x - center_x) * (y - center_y) for x, y in zip(xs, ys, strict=True)) / spread
    return 1.0 / (1.0 + math.exp(-(center_y + slope * (math.log(fraction) - center_x))))


def check_goal(goal: Goal) -> None:
    """Raise UserError for a goal that cannot be looked for."""
    for name, value, is_right, rule in (
        ("--target_accuracy", goal.target, 0.0 < goal.target < 1.0, "must lie between 0 and 1"),
        ("--tolerance", goal.tolerance, 0.0 <= goal.tolerance < 1.0, "must be 0 or more, below 1"),
        ("--draws", goal.num_draws, goal.num_draws >= 1, "must be at least 1"),
        ("--max_trials", goal.max_trials, goal.max_trials >= 1, "must be at least 1"),
    ):
        if not is_right:
            raise UserError(name, value, rule, "leave it out for the default")
