"""A rank that outlives its lead rank commits nothing to a run that another job has taken over."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import WORLD_VARIABLES, _free_port, tiny_config

from cotrain_dist.cli.main import main
from cotrain_dist.config.text import config_to_yaml

LIMIT_SECONDS = 240.0

# Both ranks stop before the commits of epoch 1. Rank 0 then dies; rank 1 does not hear of it, and
# goes on where it is once it may.
RANK = """
import os, signal, sys, time
from pathlib import Path
from cotrain_dist.cli.main import main
from cotrain_dist.runtime.heartbeat import Heartbeat
from cotrain_dist.training import commits

rank, folder = os.environ["RANK"], Path(sys.argv[1])
commit = commits.commit
Heartbeat._lose_store = Heartbeat._give_up = Heartbeat._hear = lambda *args: None

def slow(target, *rest):
    if target.name == "cotrain-00001":
        (folder / f"here-{rank}").touch()
        while not (folder / f"go-{rank}").exists():
            time.sleep(0.05)
        if rank == "0":
            os.kill(os.getpid(), signal.SIGKILL)
    commit(target, *rest)

commits.commit = slow
sys.exit(main(sys.argv[2:]))
"""


def _start(folder: Path, arguments: list[str]) -> list[subprocess.Popen[bytes]]:
    (folder / "rank.py").write_text(RANK)
    ranks, port = [], _free_port()
    for rank in range(2):
        own = map(str, (rank, rank, 2, 2, "127.0.0.1", port, "lo"))
        environ = os.environ | dict(zip(WORLD_VARIABLES, own, strict=True))
        with (folder / f"printed-{rank}").open("w") as printed:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, str(folder / "rank.py"), str(folder), *arguments],
                    env=environ | {"OMP_NUM_THREADS": "1"},
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                )
            )
    return ranks


def _wait_until_there(*files: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, files[0].parent
        time.sleep(0.1)


def _files(run: Path) -> dict[str, int]:
    return {
        str(path.relative_to(run)): path.stat().st_mtime_ns
        for path in run.rglob("*")
        if path.is_file() and path.name != "rank-001.log"
    }


@pytest.mark.slow
def test_a_second_job_is_refused_then_takes_over_from_a_rank_that_lives_on(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = tiny_config(
        digits_folder, run, pretrain={"num_epochs": 1}, checkpoint={"keep": 1}, device="cpu"
    )
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    ranks = _start(tmp_path, ["train", "--config", str(tmp_path / "settings.yaml")])
    try:
        _wait_until_there(tmp_path / "here-0", tmp_path / "here-1")
        assert main(["train", "--resume", str(run)]) == 2
        assert "is in use by a training that still runs" in capsys.readouterr().err
        (tmp_path / "go-0").touch()
        assert ranks[0].wait(timeout=60) == -9
        assert main(["train", "--resume", str(run)]) == 0
        assert ranks[1].poll() is None, (tmp_path / "printed-1").read_text()
        before = _files(run)
        (tmp_path / "go-1").touch()
        assert ranks[1].wait(timeout=60) == 4, (tmp_path / "printed-1").read_text()
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    printed = (tmp_path / "printed-1").read_text()
    assert f"attempt 2 has taken over {run}: this one, 1, writes nothing any more" in printed
    assert "Traceback" not in printed
    assert _files(run) == before
