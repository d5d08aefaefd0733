"""`cotrain-dist verify RUN`: is the run what its settings make?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.errors import EXIT_FAILED, UserError

USAGE = "verify RUN [--epoch N] [--from_start]"
PROG = "cotrain-dist verify"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    parser = Arguments(
        PROG,
        "Train an epoch of Step 2 again, in a copy, and compare hashes of weights and selections "
        "with those that the run has recorded. Start as many processes as the run had. --KEY VALUE "
        "changes device or data.root.",
        "runs/1 --epoch 3",
    )
    parser.add_argument("run", type=Path, help="directory that train wrote; it is only read")
    parser.add_argument("--epoch", type=int, help="of Step 2, from 1; default: the last one")
    parser.add_argument(
        "--from_start",
        action="store_true",
        help="from the first weights on, instead of from the newest commit before that epoch",
    )
    parser.add_argument(
        "--work_dir", type=Path, help="where the copy lies meanwhile; default: beside RUN"
    )
    own, settings = parser.parse_with_settings(arguments)
    if own.epoch is not None and own.epoch < 0:
        raise UserError("--epoch", own.epoch, "must not be negative", "epochs count from 1")
    # A tracker's files lie in the run, which is only read.
    config = replace(config_of_run(own.run, settings, PROG), tracking="none")

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.verify import verify
    from cotrain_dist.reporting.verified import verify_table
    from cotrain_dist.runtime.progress import build_console
    from cotrain_dist.training.setup import start_world

    work_dir = own.work_dir or own.run.absolute().parent
    with start_world(config) as rt:
        rows = verify(config, own.epoch, own.from_start, work_dir, rt)
        if not rt.is_lead:
            return 0
    build_console().print(verify_table(rows, own.run))
    return 0 if all(row.is_equal for row in rows) else EXIT_FAILED
