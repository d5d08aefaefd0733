"""Entry point: picks the command, turns errors into one line and an exit code."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence

from cotrain_dist import __version__
from cotrain_dist.cli import calibrate, env, evaluate, plan, predict, reproduce, runs, submit, train
from cotrain_dist.errors import (
    EXIT_FAILED,
    EXIT_USER_ERROR,
    PeerUserError,
    TrainingError,
    UserError,
)

USAGE = """\
usage: cotrain-dist train [--config FILE] [--KEY VALUE ...]
       cotrain-dist train --resume RUN [--KEY VALUE ...]
       cotrain-dist evaluate RUN [--on T|V|U|FOLDER] [--output FILE.json]
       cotrain-dist predict RUN IMAGES... [--output FILE.csv|.jsonl|.parquet]
       cotrain-dist plan [--num_ranks N] [--num_nodes N] [--measure] [--config FILE] ...
       cotrain-dist calibrate [--target_accuracy 0.5] [--config FILE] ...
       cotrain-dist reproduce [--seeds N ...] [--arms NAME ...] [--config FILE] ...
       cotrain-dist submit [--nodes N] [--gpus-per-node N] [--time T] [--dry-run] ...
       cotrain-dist runs [DIR]
       cotrain-dist env
       cotrain-dist --version

train co-trains two image classifiers; train --help lists every key. Several processes:
accelerate launch --multi_gpu --num_processes 2 -m cotrain_dist train ... (on a CPU as well).
"""


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train.run,
    "evaluate": evaluate.run,
    "predict": predict.run,
    "plan": plan.run,
    "calibrate": calibrate.run,
    "reproduce": reproduce.run,
    "submit": submit.run,
    "runs": runs.run,
    "env": env.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (docs/exit-codes.md)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except PeerUserError as error:
        return _complain(str(error), EXIT_USER_ERROR, shown=_rank() == 0)
    except UserError as error:
        return _complain(str(error), EXIT_USER_ERROR)
    except TrainingError as error:
        return _complain(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted; train --resume goes on from the last commit", 130)


def _dispatch(arguments: list[str]) -> int:
    match arguments:
        case ["--version"]:
            print(f"cotrain-dist {__version__}")
            return 0
        case [] | ["--help" | "-h"]:
            print(USAGE, end="")
            return 0 if arguments else EXIT_USER_ERROR
        case [command, *rest] if command in COMMANDS:
            return COMMANDS[command](rest)
        case [command, *_]:
            raise UserError("command", command, "is not known", "cotrain-dist --help lists them")
    return EXIT_USER_ERROR


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _complain(message: str, code: int, *, shown: bool = True) -> int:
    logging.getLogger("cotrain_dist").error(message)
    if shown:
        prefix = f"rank {_rank()} on {socket.gethostname()}: " if "RANK" in os.environ else ""
        print(f"error: {prefix}{message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
