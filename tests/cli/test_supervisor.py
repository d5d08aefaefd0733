"""`train --max-restarts N`: a run that lost a rank goes on by itself, and nothing else does."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run, with_output

from cotrain_dist.cli.commands import train
from cotrain_dist.cli.main import main
from cotrain_dist.cli.supervisor import commits_of, is_fault, supervise, wait_until_released
from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.runtime.stop import SAME_REQUEST_SECONDS


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, False) for code in (0, 1, 2, 3, 130, 143, 138, -15, -2)),
        *((code, True) for code in (4, 134, 137, 139, -9, -6)),
    ],
)
def test_only_lost_ranks_are_restarted(code: int, expected: bool) -> None:
    assert is_fault(code) is expected


class _Launcher:
    """Stands for launchers: ends with given codes, and commits in some attempts."""

    def __init__(self, run: Path, codes: list[int], commits: str) -> None:
        self.run, self.codes, self.commits = run, codes, commits
        self.given: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> int:
        attempt = len(self.given)
        self.given.append(list(arguments))
        self.run.mkdir(exist_ok=True)
        if "c" in self.commits:
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
        ([4, 0], "--", 3, 2, 0),  # the first attempt made no run
    ],
)
def test_it_restarts_until_the_end_or_until_nothing_comes_of_it(
    codes: list[int], commits: str, num_restarts: int, num_attempts: int, end: int, tmp_path: Path
) -> None:
    run, pauses = tmp_path / "run", list[float]()
    launcher = _Launcher(run, codes, commits)
    words = (["--seed", "1"], ["--resume", "run"])
    assert supervise(launcher, words, run, num_restarts, pause=pauses.append) == end
    assert launcher.given[0] == words[0]
    expected = words[1] if "c" in commits else words[0]
    assert launcher.given[1:] == [expected] * (num_attempts - 1)
    assert pauses == [2.0**number for number in range(num_attempts - 1)]


def test_it_waits_until_the_ranks_of_a_dead_launcher_have_let_go(tmp_path: Path) -> None:
    wait_until_released(tmp_path / "nothing", 60.0)
    (tmp_path / "lock").touch()
    wait_until_released(tmp_path, 60.0)
    begun = time.monotonic()
    with (tmp_path / "lock").open("r+") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        wait_until_released(tmp_path, 0.5)
        assert time.monotonic() - begun >= 0.5
        threading.Timer(0.5, lambda: fcntl.flock(file.fileno(), fcntl.LOCK_UN)).start()
        wait_until_released(tmp_path, 60.0)
    assert time.monotonic() - begun < 30.0


def test_restarts_of_a_resume_keep_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(train, "supervise", lambda launch, words, *rest, **o: given.append(words))
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    resumed = ["--resume", str(tmp_path), "--device", "cpu"]
    train.run([*resumed, "--max-restarts=3"])
    train.run(["--max-restarts", "3", "--output_dir", "nowhere", "--num-processes", "2"])
    new = ["--output_dir", "nowhere"]
    assert given == [(resumed, resumed), (new, ["--resume", "nowhere"])]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max_restarts", "x"], "--max_restarts: x: must be a whole number, 0 or more"),
        (["--max-restarts"], "--max_restarts: : takes one number"),
        (["--max_restarts", "1", "--num_processes", "0"], "--num_processes: 0: must be a whole"),
        (["--num_processes", "2"], "--num_processes: 2: belongs to --max-restarts"),
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
    assert "--max-restarts: RANK=0: starts launchers, and was started by" in capsys.readouterr().err


def _ranks_of(mark: str) -> list[int]:
    """Processes of training with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_rank = any(word.startswith(b"RANK=") for word in environ)
        if f"SUPERVISED_TEST={mark}".encode() in environ and is_rank:
            found.append(int(folder.name))
    return found


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _supervised(config: Config, folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "settings.yaml").write_text(config_to_yaml(config))
    words = ("--config", str(folder / "settings.yaml"), "--max-restarts", "3", *words)
    environ = {"OMP_NUM_THREADS": "1", "SUPERVISED_TEST": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "cotrain_dist", "train", *words],
        env=os.environ | environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_commit(run: Path, known: set[str], process: subprocess.Popen[str]) -> set[str]:
    """All commits, once there is one that was not known."""
    until = time.monotonic() + 300.0
    while not (found := commits_of(run)) - known:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    return found | known


@pytest.mark.slow
def test_a_killed_rank_and_a_killed_launcher_are_made_good_and_the_end_is_the_same(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    config = tiny_config(
        digits_folder,
        run,
        model_a={"name": "test_efficientnet", "init_from": f"{pretrained}/a"},
        model_b={"name": "test_efficientnet", "init_from": f"{pretrained}/b"},
        pretrain={"num_epochs": 20, "learning_rate": 1e-3},  # longer than two kills take
        checkpoint={"every_steps": 1},
        distributed={"lost_after_seconds": 5.0},
    )
    process = _supervised(config, tmp_path, "--num-processes", "2")
    known = _wait_for_commit(run, set(), process)
    os.kill(_ranks_of(str(tmp_path))[-1], signal.SIGKILL)
    while json.loads((run / "run.json").read_text())["attempt"] < 2:
        known |= commits_of(run)
        time.sleep(0.05)
    _wait_for_commit(run, known, process)
    launcher = _child_of(process.pid)
    os.kill(launcher, signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert re.search(r"max-restarts: attempt 1 ended with exit code (4|137); restart 1 of 3", told)
    assert "max-restarts: attempt 2 ended with exit code -9; restart 2 of 3" in told
    assert json.loads((run / "run.json").read_text())["attempt"] == 3
    run_ranks(train_run, 2, tmp_path, with_output(config, tmp_path / "whole"))
    assert history_of(run) == history_of(tmp_path / "whole")
    for name in ("a", "b"):
        file = Path("models", name, "model.safetensors")
        assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "number", "handed_on"),
    [("1", signal.SIGUSR1, "SIGTERM"), ("2", signal.SIGINT, "SIGINT")],
)
def test_a_stop_is_handed_on_and_not_made_good(
    num_processes: str, number: int, handed_on: str, digits_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = tiny_config(
        digits_folder, run, pretrain={"num_epochs": 500}, checkpoint={"every_steps": 1}
    )
    process = _supervised(config, tmp_path, "--num-processes", num_processes)
    _wait_for_commit(run, set(), process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 3, told
    assert f"stopped by {handed_on}" in told
    assert "restart" not in told.replace("train --resume", "")
    assert json.loads((run / "run.json").read_text())["attempt"] == 1


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_at_once(digits_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny_config(digits_folder, run, pretrain={"num_epochs": 500})
    process = _supervised(config, tmp_path, "--num-processes", "2")
    _wait_for_commit(run, set(), process)
    ranks = _ranks_of(str(tmp_path))
    for rank in ranks:  # frozen: they hear no signal, and their launcher waits for them
        os.kill(rank, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(SAME_REQUEST_SECONDS + 0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 3
    assert len(ranks) == 2
    assert not set(ranks) & set(_ranks_of(str(tmp_path)))
