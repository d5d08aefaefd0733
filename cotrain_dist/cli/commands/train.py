"""`cotrain-dist train`: parse, then train or resume."""

from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.config.parsing import config_of_run, parse_config
from cotrain_dist.errors import UserError

USAGE = "train [--config FILE] [--KEY VALUE ...] [--resume RUN]"
PROG = "cotrain-dist train"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    resume, rest = _take_resume(list(arguments))
    config = parse_config(rest, PROG) if resume is None else config_of_run(resume, rest, PROG)
    # Imported late: torch takes seconds that a mistyped key should not cost.
    from cotrain_dist.reporting.tables import show_outcome
    from cotrain_dist.runtime.stop import end_on_signal
    from cotrain_dist.training.train import train

    end_on_signal()
    show_outcome(train(config, resume=resume is not None))
    return 0


def _take_resume(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Take `--resume RUN` out of the arguments."""
    rest, found = [], []
    while arguments:
        word = arguments.pop(0)
        if word == "--resume":
            found.append(arguments.pop(0) if arguments else "")
        elif word.startswith("--resume="):
            found.append(word.removeprefix("--resume="))
        else:
            rest.append(word)
    if len(found) > 1 or "" in found:
        raise UserError(
            "--resume", " ".join(found), "takes one run directory", "give --resume RUN once"
        )
    return (Path(found[0]) if found else None), rest
