"""`calibrate`: the labeled fraction at which pre-trained models stand at a wanted accuracy on T."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from cotrain_dist.config import Config
from cotrain_dist.config.data import DEFAULT_FRACTION
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.sources.listing import TEST, UNKNOWN, Listing
from cotrain_dist.data.splits import draw_split_table, fractions_of
from cotrain_dist.method.calibration import (
    Goal,
    Trial,
    bracket_of,
    fraction_beside,
    nearest,
    next_fraction,
)
from cotrain_dist.method.splits import Split, labeled_limits
from cotrain_dist.reporting.grid import Grid
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import together
from cotrain_dist.runtime.progress import build_console
from cotrain_dist.store import atomic
from cotrain_dist.store.records import ROLE_NAMES
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.study.checks import with_test
from cotrain_dist.study.figures import draw_curve
from cotrain_dist.study.parts import check_images, on_lead, open_study, run_part
from cotrain_dist.study.report import setting_of
from cotrain_dist.study.settings import step_one_alone


@dataclass(frozen=True)
class Calibration:
    """How a search has ended."""

    goal: Goal
    trials: tuple[Trial, ...]
    ending: str
    is_reached: bool
    """Whether a fraction was found: within the tolerance, or between two neighbors."""

    @property
    def chosen(self) -> Trial:
        """The measured trial nearest to the target."""
        return nearest(self.trials, self.goal.target)


def calibrate(base: Config, goal: Goal, rt: Runtime, *, quiet: bool = False) -> bool:
    """Try fractions until one fits or the budget is spent. Collective over all ranks.

    base: settings of the pre-training; `base.output_dir` is the study's folder, and the first
    fraction is `data.labeled_fraction`, or what `data.labeled_per_class` comes to. Trials that
    stand there are not run again. Splits are nested: for one draw a larger fraction holds every
    smaller one, over the same T. Returns whether a fraction was found.
    """
    folder = Path(base.output_dir)
    base = with_test(replace(base, precision=rt.precision))  # what `auto` comes to, for all trials
    # One rank searches and the others are told, so none can come to another fraction.
    search = together(lambda: _Search(base, goal) if rt.is_lead else None, rt.control)
    while True:
        fraction = on_lead(lambda: search.next_fraction() if search else None, rt)
        if fraction is None:
            return bool(on_lead(lambda: search.end(quiet) if search else None, rt))
        for draw in range(goal.num_draws):
            run_part(trial_config(base, fraction, draw, folder), rt, quiet=quiet)
        on_lead(partial(search.take, fraction) if search else lambda: None, rt)


def trial_config(base: Config, fraction: float, draw: int, folder: Path) -> Config:
    """Pre-training alone, with one fraction and one draw."""
    return replace(
        step_one_alone(base),
        data=replace(base.data, labeled_fraction=fraction, labeled_per_class=None),
        seed=base.seed + draw,
        output_dir=str(folder / f"fraction-{fraction:.4f}" / f"draw-{base.seed + draw}"),
    )


class _Search:
    """The search on the lead rank: what has been tried, what comes next, how it ended."""

    def __init__(self, base: Config, goal: Goal) -> None:
        self._base, self._goal = base, goal
        self._folder = Path(base.output_dir)
        self._listing = list_images(base.data)
        self._setting = setting_of(base, len(self._listing.class_names))
        self._limits = labeled_limits(
            _class_sizes(self._listing), fractions_of(base.data, has_unlabeled=False)
        )
        self._trials: list[Trial] = []
        self._sizes: set[int] = set()
        self._ending = ""
        open_study(base, self._folder)
        check_images(self._listing, base, self._folder.glob("fraction-*/draw-*"))

    def next_fraction(self) -> float | None:
        """The next fraction to train, or None at the end."""
        goal = self._goal
        if not self._trials:
            low, high = self._limits
            return min(max(self._first_fraction(), low), high)
        if abs(nearest(self._trials, goal.target).mean - goal.target) <= goal.tolerance:
            self._ending = "a trial stands within the tolerance"
            return None
        if len(self._trials) >= goal.max_trials:
            self._ending = "the budget of trials is spent"
            return None
        # Nothing of a search is saved: trials that are finished lead to the same fractions again.
        fraction = next_fraction(self._trials, goal.target, *self._limits)
        while fraction is not None and self._num_labeled(round(fraction, 4)) in self._sizes:
            fraction = fraction_beside(fraction, self._trials, goal.target, *self._limits)
        if fraction is None:
            bracket = bracket_of(self._trials, goal.target)
            self._ending = (
                "out of reach: the target lies beyond the fractions that the data allow"
                if None in (bracket.below, bracket.above)
                else "the next fraction would label as many images as one tried already"
            )
            return None
        # As many digits as the name of its folder has: a trial that stands there must be this one.
        return round(fraction, 4)

    def _first_fraction(self) -> float:
        data = self._base.data
        if data.labeled_per_class is None:
            return round(data.labeled_fraction or DEFAULT_FRACTION, 4)
        return round(data.labeled_per_class / min(_class_sizes(self._listing)), 4)

    def take(self, fraction: float) -> None:
        """Read what the draws of a fraction have measured."""
        values = []
        for draw in range(self._goal.num_draws):
            part = trial_config(self._base, fraction, draw, self._folder).output_dir
            test = RunDirectory(Path(part)).history.cotrain()[-1].on_test
            values += [test[role].top1 for role in ROLE_NAMES]
        # Even one draw has two models, so there is a deviation.
        self._trials.append(Trial(fraction, mean(values), stdev(values), len(values)))
        # Of small classes, fractions close to each other label the same images: nothing new to
        # measure.
        self._sizes.add(self._num_labeled(fraction))

    def end(self, quiet: bool) -> bool:
        """Write calibration.json, the curve and, where a fraction was found, calibrated.yaml.

        Returns whether one was.
        """
        bracket = bracket_of(self._trials, self._goal.target)
        near = abs(nearest(self._trials, self._goal.target).mean - self._goal.target)
        is_reached = near <= self._goal.tolerance or None not in (bracket.below, bracket.above)
        found = Calibration(self._goal, tuple(self._trials), self._ending, is_reached)
        _write(found, self._base, self._setting, self._folder)
        if not quiet:
            console = build_console()
            console.print(trial_table(found, self._setting).to_rich())
            console.print(describe(found))
        return is_reached

    def _num_labeled(self, fraction: float) -> int:
        config = trial_config(self._base, fraction, 0, self._folder)
        table = draw_split_table(self._listing, config.data, config.seed)
        return len(table.sample_ids(Split.L_A))


def _class_sizes(listing: Listing) -> list[int]:
    counts = [0] * len(listing.class_names)
    for source, class_id in zip(listing.sources, listing.class_ids.tolist(), strict=True):
        if source != TEST and class_id != UNKNOWN:
            counts[class_id] += 1
    return counts


def _write(found: Calibration, base: Config, title: str, folder: Path) -> None:
    bracket = bracket_of(found.trials, found.goal.target)
    content = asdict(found) | {"chosen": asdict(found.chosen), "bracket": asdict(bracket)}
    atomic.write_json(folder / "calibration.json", content)
    text = f"{trial_table(found, title).to_markdown()}\n{describe(found)}\n"
    atomic.write_text(folder / "calibration.md", text)
    draw_curve(found.trials, found.goal.target, title, folder)
    chosen = folder / "calibrated.yaml"
    chosen.unlink(missing_ok=True)  # of a search for another target
    if found.is_reached:
        data = replace(base.data, labeled_fraction=found.chosen.fraction, labeled_per_class=None)
        calibrated = replace(base, data=data, output_dir=str(folder / "run"))
        atomic.write_text(chosen, config_to_yaml(calibrated))


def trial_table(found: Calibration, setting: str) -> Grid:
    """All trials by fraction."""
    rows = [
        [
            f"{trial.fraction:.4f}",
            f"{100 * trial.mean:.1f} ± {100 * trial.deviation:.1f}",
            str(trial.num_models),
            "chosen" if trial == found.chosen and found.is_reached else "",
        ]
        for trial in sorted(found.trials, key=lambda trial: trial.fraction)
    ]
    return Grid(
        f"Accuracy on T in % after pre-training, target {100 * found.goal.target:.0f}: {setting}",
        ("labeled fraction of each model", "mean ± deviation", "models", ""),
        rows,
    )


def describe(found: Calibration) -> str:
    """The end of the search in a sentence or two."""
    bracket, chosen = bracket_of(found.trials, found.goal.target), found.chosen
    if not found.is_reached:
        side = (
            "all trials lie below the target"
            if bracket.above is None
            else "the smallest fraction tried lies above the target"
        )
        return f"{found.ending}: {side}, the nearest is {_show(chosen)}."
    neighbors = [
        _show(trial) if trial else f"none tried {side}"
        for side, trial in (("below", bracket.below), ("above", bracket.above))
    ]
    around = " and ".join(neighbors)
    return f"fraction {_show(chosen)}: {found.ending}. Neighbors of the target: {around}."


def _show(trial: Trial) -> str:
    return f"{trial.fraction:.4f} ({100 * trial.mean:.1f} %)"
