"""The processes of `soak.py`: ranks that count the moments of a run, and die at the one given.

A rank is forked from a process that has imported the libraries, so that a run costs what it does
and not the seconds of its imports; it is a process of its own all the same, with a wait status.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ENDED_SECONDS = 180.0
"""Limit on how long the others may live after a kill, on a busy machine."""

WORLD_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "GLOO_SOCKET_IFNAME",
)

Ranks = dict[int, BaseProcess]


@dataclass(frozen=True)
class Victim:
    """A rank, a point of its work, which time it comes to it, and what happens to it there."""

    rank: int
    point: str
    nth: int
    deed: str = "kill"


DEEDS = {
    "kill": signal.SIGKILL,
    "freeze": signal.SIGSTOP,
    "SIGINT": signal.SIGINT,
    "SIGTERM": signal.SIGTERM,
    "SIGUSR1": signal.SIGUSR1,
    "SIGUSR2": signal.SIGUSR2,
    "stop file": None,
}
"""What happens to a victim, and the signal that it sends itself."""


def import_all() -> None:
    """What ranks need, before they are forked. With one thread torch starts none here."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import cotrain_dist.cli.commands.train
    import cotrain_dist.training.train  # noqa: F401


def body(argv: Sequence[str]) -> int:
    """One rank: counts the moments of each phase, and dies at the one it was given."""
    import torch.distributed as dist

    from cotrain_dist.cli.main import main
    from cotrain_dist.store import atomic, features
    from cotrain_dist.training import evaluate, steps, train

    folder, rank = Path(os.environ["SOAK_DIR"]), os.environ.get("RANK", "0")
    fatal, nth = os.environ.get("SOAK_POINT", ""), int(os.environ.get("SOAK_NTH", "0"))
    files: dict[str, int] = {}
    counts: Counter[str] = Counter()

    def hit(point: str) -> None:
        if point not in files:
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            files[point] = os.open(folder / f"{rank}.{point}", flags)
            (folder / f"first.{rank}.{point}").touch()
        os.write(files[point], b".")  # it outlives the process
        counts[point] += 1
        if point == fatal and counts[point] == nth:
            (folder / "deed").touch()
            number = DEEDS[os.environ["SOAK_DEED"]]
            if number is None:
                Path(os.environ["SOAK_RUN"], "stop").touch()
            else:
                os.kill(os.getpid(), number)

    def wrap(owner: Any, name: str, before: str, after: str = "", *, only: Any = None) -> None:
        inner = getattr(owner, name)

        def called(*args: Any, **options: Any) -> Any:
            counted = only is None or only(*args, **options)
            if before and counted:
                hit(before)
            result = inner(*args, **options)
            if after and counted:
                hit(after)
            return result

        setattr(owner, name, called)

    def is_commit(path: Path, *_: Any) -> bool:
        return "checkpoints" in path.parts

    def is_written(path: Path, *_: Any) -> bool:
        return is_commit(path) and path.suffix == ".tmp"

    def is_deleted(_: str, dir_fd: int | None = None) -> bool:
        return dir_fd is not None and is_commit(Path(f"/proc/self/fd/{dir_fd}").readlink())

    _break(os.environ.get("SOAK_BROKEN", ""))
    wrap(train, "prepare", "start")
    wrap(features.FeatureStore, "write", "features")
    wrap(evaluate, "chunks_of_rank", "predict")
    wrap(dist, "all_gather", "gather")
    wrap(dist, "broadcast", "broadcast")
    wrap(steps, "train_step", "train")
    wrap(steps, "fit_student", "fit")
    wrap(atomic, "write_flushed", "commit, writing", only=is_commit)
    wrap(Path, "rename", "commit, before", "commit, after", only=is_written)
    wrap(os, "unlink", "commit, deleting", only=is_deleted)
    return main(list(argv))


def _break(what: str) -> None:
    """Make this build one that a soak has to find out."""
    from cotrain_dist.store import checkpoint
    from cotrain_dist.training import commits, student
    from cotrain_dist.types import Exchange

    match what:
        case "layout":  # DDP lays its buckets out anew after the first step of a process
            whole = student.DistributedDataParallel
            student.DistributedDataParallel = lambda model, **options: whole(
                model, **options | {"find_unused_parameters": False}
            )
        case "rename":  # a commit has its name before it is whole
            written = checkpoint._write_commit

            def write_in_place(target: Path, *rest: Any) -> None:
                target.mkdir(parents=True, exist_ok=True)
                written(target, *rest)

            checkpoint._write_commit = write_in_place
        case "exchange":  # left out of a commit
            commits.exchange_from_tensors = lambda tensors: Exchange.empty()


def start_ranks(
    num_ranks: int, words: Sequence[str], run: Path, marks: Path, victim: Victim | None
) -> Ranks:
    """One process per rank of `train` of `run`; what they print and count lies in `marks`."""
    port = free_port()
    ranks: Ranks = {}
    for rank in range(num_ranks):
        environ = clean_environment() | {"SOAK_DIR": str(marks), "SOAK_RUN": str(run)}
        if num_ranks > 1:
            own = (rank, rank, num_ranks, num_ranks, "127.0.0.1", port, "lo")
            environ |= dict(zip(WORLD_VARIABLES, map(str, own), strict=True))
        if victim is not None and victim.rank == rank:
            environ |= {"SOAK_POINT": victim.point, "SOAK_NTH": str(victim.nth)}
            environ |= {"SOAK_DEED": victim.deed}
        ranks[rank] = multiprocessing.get_context("fork").Process(
            target=_rank, args=(words, environ, marks / f"{rank}.out")
        )
        ranks[rank].start()
    return ranks


def _rank(words: Sequence[str], environ: Mapping[str, str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(environ)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(body(words))


def clean_environment() -> dict[str, str]:
    """What this process has, without what makes a rank."""
    left_out = (*WORLD_VARIABLES, "SOAK_POINT", "SOAK_NTH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_one_ended(ranks: Ranks, limit: float) -> float:
    """The time at which the first one did, by time.monotonic, or the limit was over."""
    multiprocessing.connection.wait([rank.sentinel for rank in ranks.values()], limit)
    return time.monotonic()


def wait_for(ranks: Ranks, limit: float) -> dict[int, int | None]:
    """Exit codes by rank; None of one that had to be killed after the limit."""
    until, codes = time.monotonic() + limit, {}
    for rank, process in ranks.items():
        process.join(max(0.1, until - time.monotonic()))
        codes[rank] = process.exitcode
    for process in ranks.values():
        if process.is_alive():
            process.kill()
            process.join()
    return codes


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def counts_in(marks: Path, num_ranks: int) -> dict[int, Counter[str]]:
    """How often each rank has come to each point."""
    found: dict[int, Counter[str]] = {rank: Counter() for rank in range(num_ranks)}
    for path in sorted(marks.iterdir()) if marks.is_dir() else ():
        rank, _, point = path.name.partition(".")
        if rank.isdigit() and int(rank) < num_ranks and point != "out":
            found[int(rank)][point] = path.stat().st_size
    return found


if __name__ == "__main__":  # of a launcher
    sys.exit(body(sys.argv[1:]))
