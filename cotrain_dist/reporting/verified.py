"""What `verify` shows. A file of its own: a training starts without what it does not need."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from cotrain_dist.inference.verify import FIGURES, Comparison


def verify_table(rows: Sequence[Comparison], run: Path) -> Table:
    """What a run has recorded beside what training it again has found; digests in short."""
    num_other = sum(not row.is_equal for row in rows)
    outcome = "all equal" if not num_other else f"{num_other} of {len(rows)} differ"
    table = Table(title=f"{run}: {outcome}", title_justify="left")
    for heading in ("epoch", "what", "recorded", "found", "equal"):
        table.add_column(heading, no_wrap=heading != "what")
    for row in rows:
        shown = [text[:16] if row.what != FIGURES else "" for text in (row.recorded, row.found)]
        table.add_row(str(row.epoch), row.what, *shown, "yes" if row.is_equal else "NO")
    return table
