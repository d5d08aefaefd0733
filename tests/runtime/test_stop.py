"""A signal ends a training at once, in order, and what was committed stays."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ranks import history_of, run_ranks, start_commands, tiny_config, train_run

from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import EXIT_STOPPED
from cotrain_dist.runtime import stop

WAITING = """
import logging, time
from cotrain_dist.runtime.stop import end_on_signal
end_on_signal()
print("ready", flush=True)
{}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "wait", ["time.sleep(60)", "import threading; threading.Event().wait()"], ids=["sleep", "lock"]
)
def test_a_signal_is_heard_while_the_main_thread_waits(number: int, wait: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(wait)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RANK": "3"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == EXIT_STOPPED
    assert f"rank 3: stopped by {signal.Signals(number).name}; go on with train --resume" in errors


@pytest.mark.slow
def test_a_stopped_training_is_resumed_to_the_same_end(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(digits_folder, tmp_path / "run", cotrain={"num_epochs": 30})
    settings = tmp_path / "settings.yaml"
    settings.write_text(config_to_yaml(config))
    command = [sys.executable, "-u", "-m", "cotrain_dist", "train"]
    process = subprocess.Popen(
        [*command, "--config", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    killer = threading.Timer(100, process.kill)
    killer.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("cotrain 2/30"):
            process.send_signal(signal.SIGUSR1)
            break
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    killer.cancel()
    assert process.returncode == EXIT_STOPPED
    assert time.monotonic() - started < 10
    assert "stopped by SIGUSR1" in errors
    assert "Traceback" not in errors
    assert 4 <= len(history_of(tmp_path / "run")) < 20

    other = tiny_config(digits_folder, tmp_path / "other", cotrain={"num_epochs": 30})
    run_ranks(train_run, 1, tmp_path, other)
    subprocess.run([*command, "--resume", str(tmp_path / "run")], check=True, timeout=120)
    assert history_of(tmp_path / "run") == history_of(tmp_path / "other")


STEPPING = """
import threading
from cotrain_dist.runtime import stop
stop.PATIENCE_SECONDS = {seconds}
stop.SAME_REQUEST_SECONDS = {same}
stop.STOP.begin_steps()
print("stepping", flush=True)
while not stop.STOP.is_asked:
    threading.Event().wait(0.01)
print("asked", flush=True)
{then}
"""
WAIT = "threading.Event().wait()"


@pytest.mark.parametrize(
    ("number", "seconds", "same", "then", "is_twice", "code", "fragment"),
    [
        (signal.SIGTERM, 60, 60, 'stop.STOP.end("committed; ")', False, 3, "; committed; go on"),
        (signal.SIGINT, 60, 60, 'stop.STOP.rest("committed; ")', False, 3, "; committed; go on"),
        (signal.SIGTERM, 60, 0, WAIT, True, 3, "; at once; go on with"),
        (signal.SIGINT, 60, 0, WAIT, True, 130, "; at once; go on with"),
        (signal.SIGTERM, 0.5, 60, WAIT, False, 3, "; go on with"),
        (signal.SIGINT, 2.0, 60, WAIT, True, 3, "; go on with"),
    ],
    ids=["commits", "rests", "twice", "Ctrl-C twice", "takes too long", "the launcher's copy"],
)
def test_among_steps_a_commit_comes_first(
    number: int, seconds: float, same: float, then: str, is_twice: bool, code: int, fragment: str
) -> None:
    script = WAITING.format(STEPPING.format(seconds=seconds, same=same, then=then))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for expected in ("ready\n", "stepping\n"):
        assert process.stdout.readline() == expected
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    if is_twice:
        process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert f"stopped by {signal.Signals(number).name}{fragment}" in errors
    assert errors.count("stopped by") == 1


BY_FILE = """
import sys
from pathlib import Path
from cotrain_dist.runtime.stop import stops_by_file
run = Path(sys.argv[1])
(run / "stop").touch()
with stops_by_file(run):
    print((run / "stop").exists(), flush=True)
    time.sleep(60)
"""


def test_a_stop_file_is_obeyed_once(tmp_path: Path) -> None:
    """One that lies there at the start is taken and asks for nothing: a resume is not stopped."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(BY_FILE), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "False\n"]
    (tmp_path / "stop").touch()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == EXIT_STOPPED
    assert f"stopped by the file {tmp_path / 'stop'}; go on with" in errors
    assert not (tmp_path / "stop").exists()


def test_a_process_that_no_signal_ends_looks_for_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop.STOP, "is_armed", False)  # commands of other tests have armed it
    with stop.stops_by_file(tmp_path):
        (tmp_path / "stop").touch()
        time.sleep(2 * stop.LOOK_SECONDS)
    assert (tmp_path / "stop").exists()


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_all_ranks_commit_where_they_stand_and_go_on_from_there(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    """A signal meets both models among steps: epochs take 0.2 to 2 s, and beats are a second apart.

    B has two ranks of three. One rank alone is asked; the others hear of it.
    """
    changes = {
        "data": {"labeled_per_class": 8, "test_per_class": 2, "image_size": 96},
        "train": {"batch_size": 4 if num_ranks == 1 else 6},
        "pretrain": {"num_epochs": 8 if num_ranks == 1 else 30},
        "model_a": {"name": "test_efficientnet"},
        "model_b": {"name": "test_efficientnet"},
        "placement": {"ranks_a": [0] if num_ranks > 1 else None},
        "distributed": {"lost_after_seconds": 5.0},
    }
    config = tiny_config(digits_folder, tmp_path / "run", **changes)
    settings = tmp_path / "settings.yaml"
    settings.write_text(config_to_yaml(config))
    started = start_commands(num_ranks, ["train", "--config", str(settings)], tmp_path)
    _wait_for(tmp_path / "run" / "checkpoints" / "b", 1 if num_ranks > 1 else 0)
    _wait_for(tmp_path / "run" / "checkpoints" / "a", 2)
    time.sleep(0.3)  # from an epoch's end into the next one
    started[-1].send_signal(signal.SIGUSR2)
    assert [rank.wait(30) for rank in started] == [EXIT_STOPPED] * num_ranks
    printed = [(tmp_path / f"{rank}.out").read_text() for rank in range(num_ranks)]
    heard = r"(SIGUSR2 to rank 2 \(.*\)|a request to rank 1 \(.*\)|another rank of its model)"
    by = "SIGUSR2" if num_ranks == 1 else heard
    for text in printed[:2]:
        assert re.search(f"stopped by {by}; ", text), text
    assert "; committed " in printed[0]
    assert "stopped by SIGUSR2; committed " in printed[-1]
    assert "Traceback" not in "".join(printed)

    started = start_commands(num_ranks, ["train", "--resume", str(tmp_path / "run")], tmp_path)
    assert [rank.wait(300) for rank in started] == [0] * num_ranks
    logs = "".join(log.read_text() for log in (tmp_path / "run" / "logs").iterdir())
    for text in printed:
        # Unless it was an epoch's last step: then the epoch is committed.
        for num_steps in re.findall(r"; committed after (\d+) steps of the epoch", text):
            assert f"goes on after step {num_steps} of" in logs
    other = tiny_config(digits_folder, tmp_path / "other", **changes)
    run_ranks(train_run, num_ranks, tmp_path, other)
    assert history_of(tmp_path / "run") == history_of(tmp_path / "other")


def _wait_for(folder: Path, num_commits: int) -> None:
    until = time.monotonic() + 120
    while len(list(folder.glob("pretrain-*"))) < num_commits:
        assert time.monotonic() < until
        time.sleep(0.01)
