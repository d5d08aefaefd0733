"""Entry point: picks the command, turns errors into one line and an exit code."""

import importlib
import logging
import os
import pkgutil
import socket
import sys
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType

from cotrain_dist.cli import commands
from cotrain_dist.config.parsing import check_text
from cotrain_dist.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PEER_LOST,
    EXIT_USER_ERROR,
    PeerLostError,
    PeerUserError,
    TrainingError,
    UserError,
)
from cotrain_dist.printable import printable
from cotrain_dist.version import __version__

ABOUT = """
train co-trains two image classifiers; train --help lists every key. Several processes:
accelerate launch --multi_gpu --num_processes 2 -m cotrain_dist train ... (on a CPU as well).
"""


def command_names() -> list[str]:
    """The commands: the files of cli/commands, `train` first."""
    # Found and not listed: a new command is one file.
    names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    return sorted(names, key=lambda name: (name != "train", name))


def load_command(name: str) -> ModuleType:
    """The module of a command: `run` takes its arguments and returns the exit code."""
    return importlib.import_module(f"{commands.__name__}.{name}")


def usage() -> str:
    """One line for each command."""
    lines = [load_command(name).USAGE for name in command_names()]
    shown = "\n       ".join(f"cotrain-dist {line}" for line in [*lines, "--version"])
    return f"usage: {shown}\n{ABOUT}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (docs/exit-codes.md)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    # Before UserError, its base, as PeerLostError before TrainingError below.
    except PeerUserError as error:
        return _complain(str(error), EXIT_USER_ERROR, shown=_rank() == 0)
    except UserError as error:
        return _complain(str(error), EXIT_USER_ERROR)
    except PeerLostError as error:
        return _complain(str(error), EXIT_PEER_LOST)
    except TrainingError as error:
        return _complain(str(error), EXIT_FAILED)
    except OSError as error:
        return _complain(describe_os_error(error), EXIT_FAILED)
    except KeyboardInterrupt:
        message = "interrupted; train --resume goes on from the last commit"
        return _complain(message, EXIT_INTERRUPTED)


def _dispatch(arguments: list[str]) -> int:
    for before, word in pairwise(["", *arguments]):
        option = word if "=" in word else before
        named = option.partition("=")[0] if option.startswith("--") else "command line"
        check_text(named, word)
    match arguments:
        case ["--version"]:
            print(f"cotrain-dist {__version__}")
            return 0
        case [] | ["--help" | "-h"]:
            print(usage(), end="")
            return 0 if arguments else EXIT_USER_ERROR
        case [command, *rest] if command in command_names():
            code: int = load_command(command).run(rest)
            return code
        case [command, *_]:
            raise UserError("command", command, "is not known", "cotrain-dist --help lists them")
    return EXIT_USER_ERROR


def describe_os_error(error: OSError) -> str:
    """One line with the file's name: what the operating system refused."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' -> '.join(files)}: " if files else ""
    return f"{where}{error.strerror or error}; what was committed stays"


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _complain(message: str, code: int, *, shown: bool = True) -> int:
    message = printable(message)
    logging.getLogger("cotrain_dist").error(message)
    if shown:
        prefix = f"rank {_rank()} on {socket.gethostname()}: " if "RANK" in os.environ else ""
        print(f"error: {prefix}{message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
