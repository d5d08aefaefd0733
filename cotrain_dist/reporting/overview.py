"""An overview of runs: status, epochs, best accuracy, duration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cotrain_dist.reporting.run_directory import RunDirectory


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
        except (OSError, ValueError, LookupError, TypeError):
            summaries.append(RunSummary(file.parent, "unreadable", 0, "-", 0.0))
    return summaries


def _summarize(path: Path) -> RunSummary:
    run = RunDirectory(path)
    history = run.history.read()
    step_two = [record for record in history if record["phase"] == "cotrain"]
    return RunSummary(
        path=path,
        status=_status(run),
        num_epochs=step_two[-1]["epoch"] if step_two else 0,
        best=_best(step_two),
        seconds=_seconds(history),
    )


def _status(run: RunDirectory) -> str:
    if run.read_json("run.json").get("finished"):
        return "finished"
    return "running" if run.is_in_use() else "stopped"


def _best(records: list[dict[str, Any]]) -> str:
    if not records:
        return "-"
    group, name = ("validation", "V") if "validation" in records[-1] else ("test", "T")
    top1, role, epoch = max(
        (record[group][role]["top1"], role, record["epoch"])
        for record in records
        for role in ("a", "b")
    )
    return f"{100 * top1:.1f} % on {name} ({role.upper()}, epoch {epoch})"


def _seconds(history: list[dict[str, Any]]) -> float:
    pretrain: dict[str, float] = {}
    seconds = 0.0
    for record in history:
        if record["phase"] == "pretrain":
            spent = sum(record["seconds"].values())
            pretrain[record["role"]] = pretrain.get(record["role"], 0.0) + spent
        else:
            seconds += record["seconds"]
    return seconds + max(pretrain.values(), default=0.0)


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
