"""What fits into a time: at which image size, and for how many epochs of both steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SIZE, SIZE_STEP = 32, 32
"""Pixels; most models halve an image five times."""

LEAST_OF_USUAL = 0.5
"""A larger image is taken where at least so large a share of the usual epochs fits beside it."""

MOST_OF_USUAL = 3.0
"""More time than this many times the usual epochs is left alone."""

MOST_FOR_FEATURES = 0.5
"""Heads: share of the time that a pass over all images may take; their fits take the rest."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds that a training takes with images of one size."""

    image_size: int
    before: float
    """Outside of epochs: features of the start, what is measured before and after."""
    step_one: float
    """Of an epoch; 0 where heads alone are fitted."""
    step_two: float
    """Of an epoch; 0 where heads alone are fitted."""

    @property
    def least(self) -> float:
        """Of the shortest training: one epoch of each step, or the features of heads and a fit."""
        if self.is_of_heads:
            return self.before / MOST_FOR_FEATURES
        return self.before + self.step_one + self.step_two

    @property
    def is_of_heads(self) -> bool:
        """Whether no epoch takes steps."""
        return self.step_one == self.step_two == 0.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What fits."""

    image_size: int
    step_one_epochs: int
    step_two_epochs: int
    seconds: float
    """That it should take."""
    step_one_share: float
    """Of the seconds within epochs, those of Step 1."""


def sizes_up_to(largest: int) -> list[int]:
    """Image sizes to choose from, in pixels, the largest first: down to a quarter of the largest.

    >>> sizes_up_to(112), sizes_up_to(28)
    ([112, 96, 64, 32], [28])
    """
    least = max(LEAST_SIZE, largest // 4)
    multiples = range(SIZE_STEP * ((largest - 1) // SIZE_STEP), least - 1, -SIZE_STEP)
    return [largest, *multiples]


def seconds_at(size: int, measured: Sequence[tuple[int, float]]) -> float:
    """Seconds for an image of a size, from those measured at two sizes, or at one.

    What an image costs is a part of its own (reading, decoding) and a part for each of its pixels.
    measured: (size in pixels, seconds), the smaller size before the larger.

    >>> seconds_at(100, [(50, 2.0), (200, 5.0)]), seconds_at(50, [(50, 2.0), (200, 1.9)])
    (2.6, 2.0)
    """
    (small, at_small), (large, at_large) = measured[0], measured[-1]
    if large == small:
        return at_small
    per_pixel = max(0.0, (at_large - at_small) / (large**2 - small**2))
    return at_small + per_pixel * (size**2 - small**2)


def choose(costs: Sequence[Costs], usual: tuple[int, int], seconds: float) -> Choice | None:
    """The largest image size at which half of the usual epochs fit, and how many fit then.

    costs: from the largest size to the smallest. usual: epochs of Step 1 and of Step 2, whose
    proportion stays. Where half of them fit at no size, the smallest is taken; None where not even
    one epoch of each step fits then.
    """
    for cost in costs:
        times = (seconds - cost.before) / max(_seconds_of(cost, usual), 1e-9)
        if cost.is_of_heads and cost.least <= seconds:
            return _choice(cost, usual)
        if not cost.is_of_heads and times >= LEAST_OF_USUAL:
            return _longest(cost, usual, seconds)
    return _longest(costs[-1], usual, seconds) if costs[-1].least <= seconds else None


def _longest(cost: Costs, usual: tuple[int, int], seconds: float) -> Choice:
    """As many epochs as fit, both steps in their usual proportion, at least one of each."""
    left = seconds - cost.before
    times = min(MOST_OF_USUAL, left / max(_seconds_of(cost, usual), 1e-9))
    one, two = (min(number, 1) for number in usual)
    if usual[0]:
        one = max(one, math.floor(times * usual[0]))
        one = min(one, max(1, math.floor((left - two * cost.step_two) / max(cost.step_one, 1e-9))))
    if usual[1]:
        fits = math.floor((left - one * cost.step_one) / max(cost.step_two, 1e-9))
        two = max(two, min(fits, math.ceil(times * usual[1])))
    return _choice(cost, (one, two))


def _choice(cost: Costs, epochs: tuple[int, int]) -> Choice:
    in_epochs = _seconds_of(cost, epochs)
    return Choice(
        image_size=cost.image_size,
        step_one_epochs=epochs[0],
        step_two_epochs=epochs[1],
        seconds=cost.least if cost.is_of_heads else cost.before + in_epochs,
        step_one_share=epochs[0] * cost.step_one / in_epochs if in_epochs else 0.0,
    )


def _seconds_of(cost: Costs, epochs: tuple[int, int]) -> float:
    return epochs[0] * cost.step_one + epochs[1] * cost.step_two
