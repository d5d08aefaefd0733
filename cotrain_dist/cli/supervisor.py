"""`train --max-restarts N`: a fresh launcher for the same run, where a rank was lost.

torchrun's own restarts keep the rendezvous of the attempt before, whose addresses are stale. Here
each attempt is a new launcher, which knows nothing of the one before; what they have in common is
the run directory. This process imports no torch: it waits.
"""

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cotrain_dist.errors import EXIT_PEER_LOST, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from cotrain_dist.runtime.stop import SAME_REQUEST_SECONDS

SHELL_SIGNALS = 128
"""Added to the number of a signal that ended a process, as shells do."""

BY_A_PERSON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask for an end; no other of them is a fault that a restart could mend."""

MOST_IDLE = 2
"""Attempts in a row without a newer commit that end it: a fault that comes back is no accident."""

LONGEST_PAUSE_SECONDS = 60.0

RELEASED_AFTER = 3.0
"""Times `distributed.lost_after_seconds` that ranks may hold a run after their launcher has died.
"""


def is_fault(code: int) -> bool:
    """Whether an attempt with this exit code has lost a rank, or a launcher, by no one's wish."""
    number = code - SHELL_SIGNALS if code > SHELL_SIGNALS else -code
    if number > 0:  # a signal, as a shell tells it or as a parent does
        return number not in BY_A_PERSON
    return code == EXIT_PEER_LOST


def supervise(
    launch: Callable[[Sequence[str]], int],
    arguments: tuple[Sequence[str], Sequence[str]],
    run: Path,
    max_restarts: int,
    limit_seconds: float = 60.0,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Launch `train` until it ends by itself, at most 1 + `max_restarts` times; its exit code.

    launch: starts a fresh launcher with arguments of `train`, waits, gives the exit code.
    arguments: of the first attempt, and those to go on with `run` where it was made by then.
    limit_seconds: how long a restart waits for ranks that have outlived their launcher.
    """
    num_idle, before, words = 0, commits_of(run), arguments[0]
    for attempt in range(1, max_restarts + 2):
        code = launch(words)
        if not is_fault(code) or attempt > max_restarts:
            return code
        now = commits_of(run)
        num_idle, before = (0 if now - before else num_idle + 1), now
        if num_idle == MOST_IDLE:
            _say(f"{MOST_IDLE} attempts in a row have brought no newer commit: stopping")
            return code
        _say(f"attempt {attempt} ended with exit code {code}; restart {attempt} of {max_restarts}")
        pause(min(2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS))
        wait_until_released(run, limit_seconds)
        words = arguments[1] if (run / "run.json").is_file() else arguments[0]
    raise AssertionError("an attempt too many")


def commits_of(run: Path) -> set[str]:
    """All commits, also those within epochs."""
    found = (path for path in run.glob("checkpoints/**/*-[0-9]*") if path.is_dir())
    return {str(path) for path in found if path.suffix != ".tmp"}


def wait_until_released(run: Path, limit_seconds: float) -> None:
    """Return once no process holds the run any more, or after the limit.

    Where a launcher was killed, its ranks notice that after some seconds; until then a resume is
    refused, as one of a run that trains.
    """
    deadline = time.monotonic() + limit_seconds
    while _is_held(run / "lock") and time.monotonic() < deadline:
        time.sleep(0.2)


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("r+") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no run yet, or no locks there: `train` says what is to be said
        return False
    return False


def _say(text: str) -> None:
    print(f"max-restarts: {text}", file=sys.stderr, flush=True)


def launch_processes(num_processes: int, arguments: Sequence[str], *, precision: str) -> int:
    """Run `train` in that many processes of this machine; returns the exit code.

    precision: the setting. A signal that asks this process to end is handed on, and the ranks end
    in order; the code is then that of a stop, whatever the launcher makes of it.
    """
    program = ["-m", "cotrain_dist", "train", *arguments]
    if num_processes > 1:
        # The launcher always names a precision, and one that is not the setting is refused.
        mixed = precision if precision in ("bf16", "fp16") else "no"
        program = [
            *("-m", "cotrain_dist.cli.launcher", "--multi_gpu", "--num_machines", "1"),
            *("--num_processes", str(num_processes), "--mixed_precision", mixed),
            *("--dynamo_backend", "no", "--main_process_port", "0", *program),
        ]
    # A session of its own: Ctrl-C then reaches the launcher once, from here.
    child = subprocess.Popen([sys.executable, *program], start_new_session=True)
    with _handing_on(child) as asked:
        code = child.wait()
    return code if not asked or code in (0, EXIT_USER_ERROR) else EXIT_STOPPED


@contextmanager
def _handing_on(child: subprocess.Popen[bytes]) -> Iterator[list[float]]:
    """Hand signals that ask for an end on to a process, whose session the second one ends at once.

    Gives the seconds at which they came.
    """
    asked: list[float] = []

    def hand_on(number: int, frame: object) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > SAME_REQUEST_SECONDS:
            _kill_with_children(child.pid)
            return
        # Launchers hand SIGINT and SIGTERM on, and die of others.
        child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in BY_A_PERSON}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill_with_children(pid: int) -> None:
    """A launcher and its ranks, each of which it has given a session of its own."""
    launcher = psutil.Process(pid)
    for process in (*launcher.children(recursive=True), launcher):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def check_outside(environ: Mapping[str, str]) -> None:
    """Raise UserError inside a launcher, which would end with its first rank."""
    if "RANK" in environ:
        raise UserError(
            "--max-restarts",
            f"RANK={environ['RANK']}",
            "starts launchers, and was started by one",
            "leave the launcher out and give --num-processes N",
        )
