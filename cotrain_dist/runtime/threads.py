"""OpenMP threads of this process: how many, and how they wait. Settled before torch is imported.

A thread that waits at a barrier spins by default. Beside another busy process the thread that it
waits for does not run, and a step takes 4 to 30 times as long as with threads that sleep
(docs/performance.md).
"""

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

NUMBER, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"

GIVEN_BY = {
    NUMBER: (NUMBER, "MKL_NUM_THREADS"),
    WAITING: (WAITING, "KMP_BLOCKTIME", "GOMP_SPINCOUNT"),
}
"""Variables of a user or a launcher; where one of them is set, nothing is chosen."""

NUM_LOCAL = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "WORLD_SIZE")
"""How many ranks share this node. The last counts all ranks: rather too few threads than many."""

_chosen: dict[str, str] = {}


def settle_threads(environ: MutableMapping[str, str]) -> None:
    """Set what nobody else has set; nothing once torch is imported, which has its threads then."""
    if "torch" not in sys.modules:
        _chosen.update(choose_threads(environ, usable_cores()))
        environ.update(_chosen)


def choose_threads(environ: Mapping[str, str], num_cores: int) -> dict[str, str]:
    """The variables to set: each rank of a node gets its part of the cores, and waits asleep."""
    num_ranks = next((int(environ[name]) for name in NUM_LOCAL if _is_number(environ, name)), 1)
    wanted = {NUMBER: str(max(num_cores // num_ranks, 1)), WAITING: "PASSIVE"}
    return {
        name: value
        for name, value in wanted.items()
        if not any(environ.get(given) for given in GIVEN_BY[name])
    }


def _is_number(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "")
    return value.isdigit() and int(value) > 0


def usable_cores(system: Path = Path("/sys")) -> int:
    """Physical cores that this process may use: by its affinity, and its container's limit."""
    # Two threads on one core would wait for each other's arithmetic.
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)
    files = [
        system / f"devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        for number in allowed
    ]
    num_cores = len({file.read_text() for file in files if file.is_file()}) or len(allowed)
    limit = system / "fs/cgroup/cpu.max"
    quota, period = limit.read_text().split() if limit.is_file() else ("max", "1")
    return num_cores if quota == "max" else max(min(num_cores, int(quota) // int(period)), 1)


def describe_threads(environ: Mapping[str, str]) -> dict[str, str]:
    """What is set, by variable, and whether this program chose it."""
    names = dict.fromkeys(name for given in GIVEN_BY.values() for name in given)
    return {
        name: f"{environ[name]} ({'chosen' if name in _chosen else 'given'})"
        for name in names
        if environ.get(name)
    }


def threads_line(environ: Mapping[str, str]) -> str:
    """`describe_threads` for the log."""
    parts = [f"{name}={value}" for name, value in describe_threads(environ).items()]
    return f"threads: {', '.join(parts) or 'as torch was started with'}"
