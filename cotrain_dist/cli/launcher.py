"""Accelerate's launcher with the exit code of the rank that failed first: `accelerate launch` and
torchrun turn all codes into 1, and a batch script could not tell a lost rank from a mistake.
"""

import signal
import sys

from accelerate.commands import launch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from cotrain_dist.cli.supervisor import SHELL_SIGNALS
from cotrain_dist.errors import EXIT_STOPPED


def main() -> int:
    """Launch as `accelerate launch` does, with its arguments; returns the exit code."""
    try:
        launch.main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"launcher: rank {rank} failed first: {_describe(failure.exitcode)}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else SHELL_SIGNALS - failure.exitcode
    except SignalException as error:  # its ranks were told, and have ended
        print(f"launcher: stopped by {error.sigval.name}", file=sys.stderr)
        return EXIT_STOPPED
    return 0


def _describe(code: int) -> str:
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name


if __name__ == "__main__":
    sys.exit(main())
