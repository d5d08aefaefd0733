"""A signal ends a training at once, in order, and what was committed stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import EXIT_STOPPED

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
