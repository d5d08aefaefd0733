"""A machine that changes under a run: its clock jumps, its file system becomes read-only."""

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ranks import history_of, run_ranks, start_commands, tiny_config, train_run
from requirements import require

from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.store.checkpoint import commits_in, read_state

EPOCHS = {"num_epochs": 12, "warmup_epochs": 0, "learning_rate": 3e-3}


def test_a_clock_that_jumps_by_days_changes_nothing_and_loses_nobody(
    digits_folder: Path, tmp_path: Path
) -> None:
    """Four times a second, back and forth, for all that asks the system for the time of day."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    require([] if library else ["faketime"])
    changes = {"pretrain": EPOCHS, "distributed": {"lost_after_seconds": 10.0}}
    config = tiny_config(digits_folder, tmp_path / "run", **changes)
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    offset, draw = tmp_path / "offset", random.Random(0)
    offset.write_text("+0")
    started = start_commands(
        2,
        ["train", "--config", str(tmp_path / "settings.yaml")],
        tmp_path,
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        FAKETIME_DONT_RESET="1",
    )
    until = time.monotonic() + 240
    while any(rank.poll() is None for rank in started):
        assert time.monotonic() < until, (tmp_path / "0.out").read_text()
        time.sleep(0.25)
        (tmp_path / "next").write_text(f"{draw.randint(-300_000, 300_000):+d}")
        (tmp_path / "next").replace(offset)
    printed = [(tmp_path / f"{rank}.out").read_text() for rank in range(2)]
    assert [rank.wait() for rank in started] == [0, 0], printed
    days = {line[:10] for line in (tmp_path / "run/logs/rank-000.log").read_text().splitlines()}
    assert len(days) > 2, "the clock did not jump"
    run_ranks(train_run, 2, tmp_path, tiny_config(digits_folder, tmp_path / "calm", **changes))
    assert history_of(tmp_path / "run") == history_of(tmp_path / "calm")


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Whatever is done below `folder` from now on meets a read-only file system."""
    over = ["mount", "--bind", str(folder), str(folder)]
    done = subprocess.run(over, capture_output=True, check=False)
    require([] if done.returncode == 0 else ["the right to mount a file system"])
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("part", ["checkpoints", "."])
def test_a_run_whose_file_system_becomes_read_only_ends_and_goes_on_later(
    part: str, digits_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = tiny_config(digits_folder, run, pretrain=EPOCHS | {"num_epochs": 20})
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    started = start_commands(2, ["train", "--config", str(tmp_path / "settings.yaml")], tmp_path)
    until = time.monotonic() + 120
    while not all(commits_in(run / "checkpoints" / role) for role in "ab"):
        assert time.monotonic() < until
        time.sleep(0.02)
    with _read_only(run / part):
        codes = [rank.wait(60) for rank in started]
        kept = {role: commits_in(run / "checkpoints" / role)[-1] for role in "ab"}
        errors = [(tmp_path / f"{rank}.out").read_text() for rank in range(2)]
        again = start_commands(1, ["train", "--resume", str(run)], tmp_path)
        assert [rank.wait(60) for rank in again] in ([1], [2])
        refused = (tmp_path / "0.out").read_text()
    assert set(codes) in ({1}, {1, 4}), (codes, errors)
    assert any("Read-only file system; what was committed stays" in text for text in errors)
    assert "Traceback" not in "".join(errors) + refused
    assert f"{run}/" in refused
    assert "Read-only file system" in refused
    for commit in kept.values():
        assert read_state(commit)["phase"] == "pretrain"
    again = start_commands(2, ["train", "--resume", str(run)], tmp_path)
    assert [rank.wait(120) for rank in again] == [0, 0]
    calm = tiny_config(digits_folder, tmp_path / "calm", pretrain=EPOCHS | {"num_epochs": 20})
    run_ranks(train_run, 2, tmp_path, calm)
    assert history_of(run) == history_of(tmp_path / "calm")
