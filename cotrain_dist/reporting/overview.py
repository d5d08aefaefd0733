"""An overview of runs: status, epochs, best accuracy, duration."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from cotrain_dist.store.records import (
    ROLE_NAMES,
    CotrainRecord,
    CrossValidation,
    PretrainRecord,
)
from cotrain_dist.store.run_directory import RunDirectory


@dataclass(frozen=True)
class RunSummary:
    """One line of the overview."""

    path: Path
    status: str
    """finished, running, stopped (train --resume goes on), or unreadable."""
    num_epochs: int
    """Epochs of Step 2 that are measured."""
    best: str
    """Best top-1 of A or B and where it was measured."""
    seconds: float
    """Spent in the epochs of both steps; of the slower model in pre-training."""


def summaries_below(folder: Path) -> list[RunSummary]:
    """Every run directory at or below `folder`, by path."""
    summaries = []
    for file in sorted(folder.rglob("run.json")):
        try:
            summaries.append(_summarize(file.parent))
        # One damaged run must not hide the others.
        except (OSError, ValueError, LookupError, TypeError):
            summaries.append(RunSummary(file.parent, "unreadable", 0, "-", 0.0))
    return summaries


def _summarize(path: Path) -> RunSummary:
    run = RunDirectory(path)
    step_two = run.history.cotrain()
    return RunSummary(
        path=path,
        status=status_of(run),
        num_epochs=step_two[-1].epoch if step_two else 0,
        best=_best(step_two, _estimate(run)),
        seconds=seconds_of(run.history.pretrain(), step_two),
    )


def status_of(run: RunDirectory) -> str:
    """finished, running, or stopped."""
    if run.read_json("run.json").get("finished"):
        return "finished"
    return "running" if run.is_in_use() else "stopped"


def _estimate(run: RunDirectory) -> str:
    """What cross-validation says of the ensemble, or else of the better model."""
    found = run.read_json("run.json").get("cross_validation")
    if not found:
        return ""
    own = CrossValidation.from_json(found).of
    top1 = own["ensemble"].top1 if "ensemble" in own else max(e.top1 for e in own.values())
    return f"{100 * top1:.1f} % by cross-validation on L"


def _best(records: list[CotrainRecord], estimate: str) -> str:
    if not records:
        return "-"
    if records[-1].test is None and records[-1].validation is None:
        return estimate or "-"
    name = "T" if records[-1].validation is None else "V"
    candidates = [(record, role) for record in records for role in ROLE_NAMES]
    # Of equals the earlier epoch, and A before B, as models/best is chosen.
    record, role = max(candidates, key=lambda pair: pair[0].judged[pair[1]].top1)
    top1 = record.judged[role].top1
    return f"{100 * top1:.1f} % on {name} ({role.upper()}, epoch {record.epoch})"


def seconds_of(step_one: list[PretrainRecord], step_two: list[CotrainRecord]) -> float:
    """Spent in the epochs of both steps; of the slower model in pre-training."""
    # On ranks of their own both models pre-train at one time, so the slower one counts.
    by_role: dict[str, float] = {}
    for record in step_one:
        spent = sum(record.seconds.values())
        by_role[record.role] = by_role.get(record.role, 0.0) + spent
    return max(by_role.values(), default=0.0) + sum(record.seconds for record in step_two)


def overview_table(summaries: list[RunSummary]) -> Table:
    """The overview for a terminal."""
    table = Table(title="Runs")
    for title in ("run", "status", "epochs", "best", "duration"):
        table.add_column(title, no_wrap=True)
    for summary in summaries:
        minutes, seconds = divmod(round(summary.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        table.add_row(
            str(summary.path),
            summary.status,
            str(summary.num_epochs),
            summary.best,
            f"{hours}:{minutes:02}:{seconds:02}",
        )
    return table
