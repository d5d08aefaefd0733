"""A launcher that is killed while the groups are made: its ranks end by themselves, and say so."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import tiny_config

from cotrain_dist.config.text import config_to_yaml

START_SECONDS = 12.0
LIMIT_SECONDS = 90.0

# Rank 1 never makes the first group, so rank 0 waits for it inside of gloo, where no exception and
# no signal handler of Python reaches it. Each rank writes down its process.
RANK = """
import os, sys, time
from pathlib import Path
import cotrain_dist.runtime.groups as groups
from cotrain_dist.cli.main import main
from cotrain_dist.runtime import stop

rank, folder = os.environ["RANK"], Path(sys.argv[1])
new_group = groups.new_group

def slow(*args):
    (folder / f"pid-{rank}.tmp").write_text(str(os.getpid()))
    (folder / f"pid-{rank}.tmp").rename(folder / f"pid-{rank}")
    if rank == "1":
        time.sleep(600)
    return new_group(*args)

groups.new_group = slow
stop.end_on_signal = lambda: None
sys.exit(main(sys.argv[2:]))
"""


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie has ended; whoever adopts it will collect it


def _start(folder: Path, root: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A launcher of two ranks that are making groups, and their processes."""
    config = tiny_config(root, folder / "run", distributed={"start_seconds": START_SECONDS})
    (folder / "settings.yaml").write_text(config_to_yaml(config))
    (folder / "rank.py").write_text(RANK)
    launcher = [str(Path(sys.executable).parent / "torchrun"), "--standalone"]
    launcher += ["--nproc-per-node", "2", str(folder / "rank.py"), str(folder)]
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(
            [*launcher, "train", "--config", str(folder / "settings.yaml")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
    files = [folder / "pid-0", folder / "pid-1"]
    deadline = time.monotonic() + LIMIT_SECONDS
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, (folder / "printed").read_text()
        time.sleep(0.1)
    return process, [int(file.read_text()) for file in files]


def _wait_until_ended(pids: list[int], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS + 3.0
    try:
        while any(map(_is_running, pids)):
            assert time.monotonic() < deadline, (folder / "printed").read_text()
            time.sleep(0.1)
    finally:
        for pid in filter(_is_running, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_ranks_of_a_killed_launcher_end_within_the_limit_of_the_start(
    digits_folder: Path, tmp_path: Path
) -> None:
    process, pids = _start(tmp_path, digits_folder)
    process.kill()
    process.wait()
    _wait_until_ended(pids, tmp_path)
    text = (tmp_path / "printed").read_text()
    # Rank 0 waited at the launcher's store, which is gone; rank 1 waits for nothing that ends.
    assert "rank 0 on " in text
    assert "the process groups could not be made (" in text
    assert re.search(r"rank 1 on \S+: the process groups did not stand within 12 s", text)
    assert "(distributed.start_seconds); a rank or its launcher has ended" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_rank_that_never_makes_its_group_ends_the_other(
    digits_folder: Path, tmp_path: Path
) -> None:
    """The launcher lives, so rank 0 waits inside of gloo, where no exception ends it."""
    process, pids = _start(tmp_path, digits_folder)
    _wait_until_ended(pids[:1], tmp_path)
    process.terminate()
    process.wait(timeout=60)
    text = (tmp_path / "printed").read_text()
    assert re.search(r"rank 0 on \S+: the process groups did not stand within 12 s", text)
