"""What a run does now, for another terminal."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cotrain_dist.method.metrics import Accuracy
from cotrain_dist.printable import printable
from cotrain_dist.reporting.overview import status_of
from cotrain_dist.store.run_directory import RunDirectory

MOST_EPOCHS = 10
"""Epochs of Step 2 in the table: the last ones."""


def state_of(path: Path, num_lines: int) -> tuple[str, Group]:
    """The status of a run, and what to show: its last epochs, and the last lines of its log.

    Raises UserError where a line of its history is damaged.
    """
    run = RunDirectory(path)
    status, records = status_of(run), run.history.cotrain()
    parts: list[Table | Text] = [Text(f"{printable(str(path))}: {status}")]
    if records:
        on = "V" if records[-1].test is None and records[-1].validation is not None else "T"
        table = Table(title=f"Step 2, right on {on} in %")
        for heading in ("epoch", "A", "B", "together", "agree", "R_A", "R_B", "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        for record in records[-MOST_EPOCHS:]:
            agree = record.agreement_rate
            table.add_row(
                str(record.epoch),
                *_percents(record.test or record.validation),
                "" if agree is None else f"{100 * agree:.1f} %",
                *(f"{record.roles[name].num_selected:,}" for name in "ab"),
                f"{record.seconds:.0f}",
            )
        parts.append(table)
    parts += [Text(line) for line in _last_lines(path / "logs" / "rank-000.log", num_lines)]
    return status, Group(*parts)


def _percents(figures: Mapping[str, Accuracy] | None) -> list[str]:
    if figures is None:
        return ["", "", ""]
    return [f"{100 * figures[name].top1:.1f}" for name in ("a", "b", "ensemble")]


def _last_lines(file: Path, num: int) -> list[str]:
    """Of the lead rank's log, which holds throughput and the time left; none before it begins."""
    if not num or not file.is_file():
        return []
    # From its end: the log of a long run need not be read each time.
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 400 * num))
        text = log.read().decode(errors="replace")
    return [printable(line) for line in text.splitlines()[-num:]]
