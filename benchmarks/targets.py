"""What `make bench` judges: figures measured side by side, and a line that ends in met or missed.

A machine that other programs share is fast in one minute and slow in the next. So two things that
are compared take turns, and what counts is the median of the ratios of neighbors.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

NUM_REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure and its bound. `values`: one for each repeat, a ratio or a plain figure."""

    name: str
    values: Sequence[float]
    bound: float
    is_least: bool
    """Whether the median must be at least `bound`; else at most."""
    unit: str = ""
    """Of the values; nothing for a ratio."""
    measured: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What the values were made of, by name with its unit: one figure for each repeat."""

    @property
    def is_met(self) -> bool:
        """By the median, as it is printed."""
        shown = round(median(self.values), 2)
        return shown >= self.bound if self.is_least else shown <= self.bound

    def line(self) -> str:
        """One line for people."""
        unit = f" {self.unit}" if self.unit else ""
        least, most = min(self.values), max(self.values)
        word = "at least" if self.is_least else "at most"
        return (
            f"{self.name}: {median(self.values):.2f}{unit} ({least:.2f} to {most:.2f}, "
            f"{len(self.values)} repeats), target {word} {self.bound:g}{unit}: "
            f"{'met' if self.is_met else 'missed'}"
        )


def seconds_in_turns(
    actions: Mapping[str, Callable[[], object]], num_repeats: int = NUM_REPEATS
) -> dict[str, list[float]]:
    """Wall-clock seconds of each action, by name: in each repeat every action runs once.

    Every second repeat runs them in the reverse order, so that none is always the first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(num_repeats):
        names = list(actions) if repeat % 2 == 0 else list(reversed(actions))
        for name in names:
            started = time.perf_counter()
            actions[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Repeat by repeat."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def print_all(targets: Sequence[Target]) -> None:
    """Each target's line, and below it what was measured."""
    for target in targets:
        print(target.line(), flush=True)
        for name, values in target.measured.items():
            print(f"    {name}: {', '.join(f'{value:.3g}' for value in values)}")
