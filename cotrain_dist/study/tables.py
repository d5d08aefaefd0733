"""Outcomes as tables, in the paper's shape and with the baselines that a sceptic would ask for."""

import math
from collections.abc import Sequence
from statistics import mean

from cotrain_dist.method.statistics import Interval, paired_interval
from cotrain_dist.reporting.grid import Grid
from cotrain_dist.study.arms import ARMS, BY_NAME, LABELS_ONLY, PAPER, START, VOTE, Arm
from cotrain_dist.study.published import PaperTable, paper_tables
from cotrain_dist.study.results import (
    Outcome,
    Outcomes,
    gain,
    over_seeds,
)
from cotrain_dist.study.verdict import Verdict

NOT_RUN = "not run"


def summary(outcomes: Outcomes, setting: str) -> Grid:
    """Every arm after its last epoch; `setting` names data and resolution."""
    rows = [_start_row(outcomes)]
    rows += [_summary_row(arm, outcomes) for arm in ARMS]
    return Grid(
        f"Accuracy on T in %, {setting}, after the last epoch of Step 2",
        (
            *("arm", "what it is", "published A, B (epoch)", "seeds", "A", "B", "ensemble"),
            *("mean recall", "gain over none-own", f"gain over {VOTE}"),
            "steps of A in Step 1 + Step 2",
        ),
        rows,
    )


def _start_row(outcomes: Outcomes) -> list[str]:
    found = list(outcomes.get(START, {}).values())
    row = [START, "pre-trained A and B; their ensemble without exchange", ""]
    if not found:
        return [*row, NOT_RUN, *[""] * 7]
    cells = [show_spread([o.first[name] for o in found]) for name in ("a", "b", "ensemble")]
    return [*row, str(len(found)), *cells, _recall(found), "", "", _steps(START, outcomes)]


def _summary_row(arm: Arm, outcomes: Outcomes) -> list[str]:
    found = list(outcomes.get(arm.name, {}).values())
    paper = paper_tables().get(arm.table)
    title = f"{arm.title} ({arm.stands_for})" if arm.stands_for else arm.title
    row = [arm.name, title, ""]
    if paper is not None:
        row[2] = f"{paper.a[-1]:.1f}, {paper.b[-1]:.1f} ({paper.epochs[-1]})"
    if not found:
        return [*row, NOT_RUN, *[""] * 7]
    return [
        *row,
        str(len(found)),
        *(show_spread([o.last[name] for o in found]) for name in ("a", "b", "ensemble")),
        _recall(found),
        *(_gain_cell(outcomes, arm.name, over) for over in ("none-own", VOTE)),
        _steps(arm.name, outcomes),
    ]


def _gain_cell(outcomes: Outcomes, name: str, over: str) -> str:
    """A gain with its seeds, where not all seeds of the arm have the other one to pair with."""
    interval = None if name == over else gain(outcomes, name, over)
    if interval is None or interval.num_seeds == len(outcomes[name]):
        return show_interval(interval)
    return f"{show_interval(interval)}, of {interval.num_seeds} seed(s)"


def _steps(name: str, outcomes: Outcomes) -> str:
    """Mean over seeds of both steps; a pre-trained A brings those of its start."""
    begun = found = list(outcomes[name].values())
    if name != START and BY_NAME[name].begins == "pretrained":
        # Their own Step 1 has no steps; those of `start` are part of what they cost.
        begun = list(outcomes.get(START, {}).values())
    before = f"{mean(o.num_steps_before['a'] for o in begun):.0f}" if begun else "?"
    return f"{before} + {mean(o.num_steps['a'] for o in found):.0f}"


def _recall(found: Sequence[Outcome]) -> str:
    return show_spread([(o.recall["a"] + o.recall["b"]) / 2 for o in found])


def show_spread(values: Sequence[float]) -> str:
    """Mean and, over several seeds, the standard deviation."""
    center, deviation = over_seeds(values)
    return f"{center:.1f}" if deviation is None else f"{center:.1f} ± {deviation:.1f}"


def show_interval(interval: Interval | None) -> str:
    """Mean and, over several seeds, the 95 % t interval of paired differences."""
    if interval is None:
        return ""
    if math.isinf(interval.low):
        return f"{interval.mean:+.1f}"
    return f"{interval.mean:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"


def best_epochs(outcomes: Outcomes, setting: str) -> Grid:
    """Each arm at the best epoch of each model, beside the last one."""
    found = [outcome for by_seed in outcomes.values() for outcome in by_seed.values()]
    chosen_on = found[0].chosen_on if found else "T"
    warning = "" if chosen_on == "V" else ": T chose the epoch, so these are optimistic"
    rows = []
    for arm in ARMS:
        own = list(outcomes.get(arm.name, {}).values())
        if own:
            cells = [
                f"{show_spread([o.best[n] for o in own])} / {show_spread([o.last[n] for o in own])}"
                for n in ("a", "b", "ensemble")
            ]
            rows.append([arm.name, *cells])
    return Grid(
        f"Accuracy on T in %, {setting}, best epoch (chosen on {chosen_on}) / last{warning}",
        ("arm", "A", "B", "ensemble"),
        rows,
    )


def paper_shape(number: str, outcomes: Outcomes, setting: str) -> Grid:
    """One of the paper's tables by epoch, its own figures beside those of each reading."""
    paper = paper_tables()[number]
    arms = [arm for arm in ARMS if arm.table == number and outcomes.get(arm.name)]
    num_epochs = max(
        [len(o.curve["a"]) - 1 for arm in arms for o in outcomes[arm.name].values()], default=0
    )
    columns = [f"{arm.name} {role.upper()}" for arm in arms for role in "ab"]
    rows = []
    for epoch in sorted({*paper.epochs, *range(1, num_epochs + 1)}):
        if epoch not in {*paper.epochs, num_epochs} and number != "2" and epoch % 2:
            continue  # the paper gives every second one
        cells = [
            _at_epoch([o.curve[role] for o in outcomes[arm.name].values()], epoch)
            for arm in arms
            for role in "ab"
        ]
        rows.append([str(epoch), *_paper_cells(paper, epoch), *cells])
    return Grid(
        f"{paper.name}, {paper.title}: accuracy on T in % by epoch, {setting}",
        ("epoch", "published A", "published B", *columns),
        rows,
    )


def _paper_cells(paper: PaperTable, epoch: int) -> list[str]:
    if epoch not in paper.epochs:
        return ["", ""]
    index = paper.epochs.index(epoch)
    return [f"{paper.a[index]:.2f}", f"{paper.b[index]:.2f}"]


def _at_epoch(curves: Sequence[Sequence[float]], epoch: int) -> str:
    values = [curve[epoch] for curve in curves if epoch < len(curve)]
    return show_spread(values) if values else ""


def verdict_table(found: Sequence[Verdict], setting: str) -> Grid:
    """Every claim with the paper's figure, the measured one and the verdict."""
    rows = [
        [
            verdict.claim,
            "" if verdict.paper is None else f"{verdict.paper:+.1f}",
            *_interval_cells(verdict.measured),
            verdict.verdict,
        ]
        for verdict in found
    ]
    return Grid(
        f"Claims in points of accuracy on T, mean of A and B after the last epoch, {setting}",
        ("claim", "paper", "measured (95 % interval)", "seeds", "verdict"),
        rows,
    )


def parts_of_gain(outcomes: Outcomes, setting: str) -> Grid:
    """How much is shared labels, how much exchange, how much ensembling."""
    rows = [
        [what, f"{arm} - {over}", *_interval_cells(gain(outcomes, arm, over))]
        for what, arm, over in (
            ("sharing labels", LABELS_ONLY, "none-own"),
            ("exchanging R, labels own", PAPER, "none-own"),
            ("exchanging R, labels shared", "alternate-shared", LABELS_ONLY),
            ("more steps, labels own", "none-own-steps", "none-own"),
            ("many more steps, labels own", "none-own-more-steps", "none-own"),
            ("more steps, labels shared", "none-shared-steps", LABELS_ONLY),
        )
    ]
    starts = [outcome.first for outcome in outcomes.get(START, {}).values()]
    gains = [first["ensemble"] - first["models"] for first in starts]
    averaging = ["averaging both models", "ensemble - mean of A and B, pre-trained"]
    rows.append([*averaging, *_interval_cells(paired_interval(gains) if gains else None)])
    title = f"Where the gain comes from: differences in points, {setting}"
    return Grid(title, ("part", "difference", "points", "seeds"), rows)


def _interval_cells(interval: Interval | None) -> list[str]:
    return [show_interval(interval), "" if interval is None else str(interval.num_seeds)]


def readings(outcomes: Outcomes, setting: str) -> Grid:
    """Which reading of Conditions 1 and 2 comes closest to the paper's gain over its Table 2."""
    papers = paper_tables()
    rows: list[tuple[str, float, list[str]]] = []
    for arm in ARMS:
        found = gain(outcomes, arm.name, "none-own")
        if arm.table not in ("3", "4") or found is None:
            continue
        # Over the paper's own Table 2; its headline of 16 points counts from the 50 % before it.
        published = papers[arm.table].last - papers["2"].last
        fraction = found.mean / published
        cells = [f"{published:+.1f}", show_interval(found), str(found.num_seeds), f"{fraction:.0%}"]
        rows.append((arm.table, abs(fraction - 1.0), [arm.stands_for, arm.name, *cells]))
    return Grid(
        f"Readings of each condition, the closest first: points over none-own, {setting}",
        ("reading", "arm", "paper", "measured (95 % interval)", "seeds", "fraction of the paper's"),
        [cells for *_, cells in sorted(rows)],
    )
