"""`train --max-restarts N`: a run that lost a rank goes on by itself, and nothing else does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run, with_output

from cotrain_dist.cli.main import main
from cotrain_dist.cli.supervisor import can_go_on, supervise
from cotrain_dist.config.text import config_to_yaml


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, False) for code in (0, 1, 2, 3, 130, 143, 138, -15, -2)),
        *((code, True) for code in (4, 134, 137, 139, -9, -6)),
    ],
)
def test_only_lost_ranks_are_restarted(code: int, expected: bool) -> None:
    assert can_go_on(code) is expected


class _Launcher:
    """Stands for launchers: ends with given codes, and commits in some attempts."""

    def __init__(self, run: Path, codes: list[int], commits: str) -> None:
        self.run, self.codes, self.commits = run, codes, commits
        self.given: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> int:
        attempt = len(self.given)
        self.given.append(list(arguments))
        self.run.mkdir(exist_ok=True)
        (self.run / "run.json").write_text("{}")
        if self.commits[attempt] == "c":
            (self.run / "checkpoints" / "a" / f"pretrain-{attempt:05d}").mkdir(parents=True)
        return self.codes[attempt]


@pytest.mark.parametrize(
    ("codes", "commits", "num_restarts", "num_attempts", "end"),
    [
        ([4, 137, 0], "ccc", 3, 3, 0),
        ([4, 4, 4], "ccc", 2, 3, 4),
        ([2], "-", 3, 1, 2),
        ([4, 3], "cc", 3, 2, 3),
        ([4, 4, 4, 4], "c--c", 9, 3, 4),  # the second and third attempt come no further
        ([4, 4, 4, 4, 0], "c-c-c", 9, 5, 0),
        ([0], "c", 0, 1, 0),
    ],
)
def test_it_restarts_until_the_end_or_until_nothing_comes_of_it(
    codes: list[int], commits: str, num_restarts: int, num_attempts: int, end: int, tmp_path: Path
) -> None:
    run, pauses = tmp_path / "run", list[float]()
    launcher = _Launcher(run, codes, commits)
    assert supervise(launcher, ["--seed", "1"], run, num_restarts, pauses.append) == end
    assert launcher.given[0] == ["--seed", "1"]
    assert launcher.given[1:] == [["--resume", str(run)]] * (num_attempts - 1)
    assert pauses == [2.0**number for number in range(num_attempts - 1)]


def test_a_first_attempt_that_made_no_run_begins_again(tmp_path: Path) -> None:
    given = []

    def launch(arguments: Sequence[str]) -> int:
        given.append(list(arguments))
        return 4 if len(given) == 1 else 0

    assert supervise(launch, ["--seed", "1"], tmp_path / "run", 1, lambda seconds: None) == 0
    assert given == [["--seed", "1"]] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max_restarts", "x"], "--max_restarts: x: must be a whole number, 0 or more"),
        (["--max-restarts"], "--max_restarts: : takes one number"),
        (["--max_restarts", "1", "--num_processes", "0"], "--num_processes: 0: must be a whole"),
        (["--num_processes", "2"], "--num_processes: 2: goes with --max_restarts alone"),
        (["--allow_config_change"], "--allow_config_change: : there is no run"),
    ],
)
def test_mistakes(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data.source", "digits", *words]) == 2
    assert told in capsys.readouterr().err


def test_it_refuses_to_run_under_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "--data.source", "digits", "--max_restarts", "1"]) == 2
    assert "--max_restarts: under a launcher: starts launchers itself" in capsys.readouterr().err


def _ranks_of(pid: int) -> list[int]:
    """Processes of training that a process has asked for, by their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"SUPERVISED_TEST=%d" % pid in environ and any(
            word.startswith(b"RANK=") for word in environ
        ):
            found.append(int(folder.name))
    return found


def _commits(run: Path) -> list[Path]:
    return [path for path in run.glob("checkpoints/**/*-[0-9]*") if path.suffix != ".tmp"]


@pytest.mark.slow
def test_a_killed_rank_is_made_good_and_the_end_is_the_same(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "killed",
        model_a={"name": "test_efficientnet", "init_from": f"{pretrained}/a"},
        model_b={"name": "test_efficientnet", "init_from": f"{pretrained}/b"},
        pretrain={"num_epochs": 4, "learning_rate": 1e-3},
        checkpoint={"every_steps": 1},
        distributed={"lost_after_seconds": 5.0},
    )
    file = tmp_path / "settings.yaml"
    file.write_text(config_to_yaml(config))
    words = ["--config", str(file), "--max-restarts", "2", "--num-processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cotrain_dist", "train", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "SUPERVISED_TEST": str(os.getpid())},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300.0
    while not list(_commits(tmp_path / "killed")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(_ranks_of(os.getpid())[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "max-restarts: attempt 1 ended with exit code" in told
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["attempt"] == 2
    run_ranks(train_run, 2, tmp_path, with_output(config, tmp_path / "whole"))
    assert history_of(tmp_path / "killed") == history_of(tmp_path / "whole")
