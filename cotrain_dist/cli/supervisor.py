"""`train --max-restarts N`: a fresh launcher for the same run, when a rank was lost.

torchrun's own restarts keep the rendezvous of the attempt before, whose addresses are stale. Here
each attempt is a new launcher, which knows nothing of the one before; what they have in common is
the run directory. This process imports no torch: it waits.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cotrain_dist.errors import EXIT_PEER_LOST, UserError

SHELL_SIGNALS = 128
"""Added to the number of a signal that ended a process, as shells do."""

BY_A_PERSON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask for an end; no other of them is a fault that a restart could mend."""

MOST_IDLE = 2
"""Attempts in a row without a newer commit that end it: a fault that comes back is no accident."""

LONGEST_PAUSE_SECONDS = 60.0


def can_go_on(code: int) -> bool:
    """Whether an attempt with this exit code has lost a rank, by a fault of the machine."""
    number = code - SHELL_SIGNALS if code > SHELL_SIGNALS else -code
    if number > 0:  # a signal, as a shell tells it or as a parent does
        return number not in BY_A_PERSON
    return code == EXIT_PEER_LOST


def supervise(
    launch: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    run: Path,
    max_restarts: int,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Launch `train` until it ends by itself, at most 1 + `max_restarts` times; its exit code.

    launch: starts a fresh launcher with arguments of `train`, waits, gives the exit code.
    arguments: of the first attempt; those after it go on with `run`, where it was begun.
    """
    num_idle, before = 0, _commits(run)
    for attempt in range(1, max_restarts + 2):
        begun = (run / "run.json").is_file() and attempt > 1
        code = launch(["--resume", str(run)] if begun else arguments)
        if not can_go_on(code) or attempt > max_restarts:
            return code
        now = _commits(run)
        num_idle, before = (num_idle + 1 if now == before else 0), now
        if num_idle == MOST_IDLE:
            _say(f"{MOST_IDLE} attempts in a row have brought no newer commit: stopping")
            return code
        _say(f"attempt {attempt} ended with exit code {code}; restart {attempt} of {max_restarts}")
        pause(min(2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS))
    raise AssertionError("an attempt too many")


def _commits(run: Path) -> set[str]:
    """Names of all commits, also those within epochs."""
    found = (path for path in run.glob("checkpoints/**/*-[0-9]*") if path.is_dir())
    return {str(path) for path in found if path.suffix != ".tmp"}


def _say(text: str) -> None:
    print(f"max-restarts: {text}", file=sys.stderr, flush=True)


def launch_processes(num_processes: int, precision: str, arguments: Sequence[str]) -> int:
    """Run `train` in that many processes of this machine; returns the exit code.

    What ends this process meanwhile is passed on, and the ranks end in order.
    """
    program = ["-m", "cotrain_dist", "train", *arguments]
    if num_processes > 1:
        program = [
            *("-m", "cotrain_dist.cli.launcher", "--multi_gpu", "--num_machines", "1"),
            *("--num_processes", str(num_processes), "--mixed_precision", precision),
            *("--dynamo_backend", "no", "--main_process_port", "0", *program),
        ]
    # A session of its own: Ctrl-C then reaches the ranks once, from here.
    child = subprocess.Popen([sys.executable, *program], start_new_session=True)
    before = {number: signal.getsignal(number) for number in BY_A_PERSON}
    try:
        for number in BY_A_PERSON:
            signal.signal(number, lambda number, frame: child.send_signal(number))
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_outside(environ: Mapping[str, str]) -> None:
    """Raise UserError inside a launcher, which would end with its first rank."""
    if "RANK" in environ:
        raise UserError(
            "--max_restarts",
            "under a launcher",
            "starts launchers itself",
            "leave the launcher out and give --num_processes N",
        )
