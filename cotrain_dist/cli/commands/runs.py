"""`cotrain-dist runs DIR`: the runs below a folder, with status and best accuracy."""

from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments
from cotrain_dist.errors import UserError

USAGE = "runs [DIR]"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = Arguments(
        "cotrain-dist runs",
        "List the runs below a folder: status, epochs, best accuracy, duration.",
        "runs",
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"))
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        raise UserError("DIR", folder, "is no folder", "name one that holds run directories")
    from cotrain_dist.reporting.overview import overview_table, summaries_below
    from cotrain_dist.runtime.progress import build_console

    summaries = summaries_below(folder)
    if not summaries:
        raise UserError("DIR", folder, "holds no run", "name one that holds run directories")
    build_console().print(overview_table(summaries))
    return 0
