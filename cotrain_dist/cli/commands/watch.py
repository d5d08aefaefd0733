"""`cotrain-dist watch RUN`: a run's last epochs and log, until it ends."""

import time
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments
from cotrain_dist.errors import UserError

USAGE = "watch RUN [--every SECONDS] [--lines N] [--once]"
RUNNING = "running"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. It ends with the training, or by Ctrl-C."""
    own = _parser().parse_args(arguments)
    if own.every <= 0.0:
        raise UserError("--every", own.every, "must be above 0", "2 looks every two seconds")
    if own.lines < 0:
        raise UserError("--lines", own.lines, "must not be negative", "0 shows no line of the log")
    if not (own.run / "run.json").is_file():
        rule = "is no run directory (so far)"
        raise UserError("RUN", own.run, rule, "name the output_dir of a training that has begun")

    from rich.live import Live

    from cotrain_dist.reporting.watching import state_of
    from cotrain_dist.runtime.progress import build_console

    console = build_console()
    status, shown = state_of(own.run, own.lines)
    if own.once or status != RUNNING:
        console.print(shown)
        return 0
    with Live(shown, console=console, auto_refresh=False) as live:
        try:
            while status == RUNNING:
                time.sleep(own.every)
                status, shown = state_of(own.run, own.lines)
                live.update(shown, refresh=True)
        except KeyboardInterrupt:  # whoever has seen enough; the training does not notice
            pass
    return 0


def _parser() -> Arguments:
    parser = Arguments(
        "cotrain-dist watch",
        "Show the last epochs of a training and the last lines of its log, from another terminal "
        "or another machine that sees its directory, until it ends. It only reads.",
        "runs/1 --every 10",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="output_dir of the training")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between looks (2)")
    parser.add_argument("--lines", type=int, default=5, help="lines of the log to show (5)")
    parser.add_argument("--once", action="store_true", help="show it once and end")
    return parser
