"""A disk that fills up: a real one, of a few megabytes, in the memory of this machine."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run
from requirements import require

from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.store.checkpoint import commits_in, read_state

ROOM = "64m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MB until it is made smaller."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    require([] if done.returncode == 0 else ["the right to mount a file system"])
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def _train(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cotrain_dist", "train", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_ends_with_one_line_and_goes_on_to_the_same_end_once_there_is_room(
    digits_folder: Path, small_disk: Path, tmp_path: Path
) -> None:
    """At four sizes that are drawn, so that it fills up in other places."""
    calm = tiny_config(digits_folder, tmp_path / "calm", checkpoint={"every_steps": 1})
    run_ranks(train_run, 1, tmp_path, calm)
    needed = sum(file.stat().st_size for file in (tmp_path / "calm").rglob("*") if file.is_file())
    draw, ended_in = random.Random(0), set()
    for number in range(4):
        run = small_disk / f"run-{number}"
        config = tiny_config(digits_folder, run, checkpoint={"every_steps": 1})
        (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
        _resize(small_disk, str(int(needed * draw.uniform(0.2, 0.9))))
        done = _train(["--config", str(tmp_path / "settings.yaml")])
        assert done.returncode == 1, done.stderr
        *_, last = done.stderr.splitlines()
        assert last.startswith(f"error: {run}/"), done.stderr
        assert last.endswith("No space left on device; what was committed stays")
        assert "Traceback" not in done.stderr
        ended_in.add(last.partition(str(run))[2])
        for folder in ("a", "b", "world", "steps/a", "steps/b"):
            for commit in commits_in(run / "checkpoints" / folder):
                read_state(commit)
        _resize(small_disk, ROOM)
        assert _train(["--resume", str(run)]).returncode == 0
        assert history_of(run) == history_of(tmp_path / "calm")
        shutil.rmtree(run)
    assert len(ended_in) > 1
