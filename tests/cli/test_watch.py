"""`watch RUN`: shows a run from outside, and ends with it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import run_ranks, start_commands, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config.text import config_to_yaml


def test_a_finished_run_is_shown_once_and_nothing_is_written(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_ranks(train_run, 1, tmp_path, tiny_config(digits_folder, run))
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    assert cli.main(["watch", str(run), "--lines", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"{run}: finished" in shown
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    cells = [cell.strip() for cell in shown.splitlines()[-4].strip("│").split("│")]
    figures = [f"{100 * last['test'][who]['top1']:.1f}" for who in ("a", "b", "ensemble")]
    assert cells[:4] == ["2", *figures]
    assert cells[5:7] == [str(last["num_selected_a"]), str(last["num_selected_b"])]
    log = (run / "logs" / "rank-000.log").read_text().splitlines()
    assert shown.splitlines()[-2:] == log[-2:]
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


@pytest.mark.slow
def test_it_follows_a_training_to_its_end(digits_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny_config(digits_folder, run, pretrain={"num_epochs": 30})
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    (training,) = start_commands(
        1, ["train", "--config", str(tmp_path / "settings.yaml")], tmp_path
    )
    until = time.monotonic() + 60
    while not (run / "logs" / "rank-000.log").is_file():
        assert time.monotonic() < until
        time.sleep(0.05)
    watching = subprocess.Popen(
        [sys.executable, "-m", "cotrain_dist", "watch", str(run), "--every", "0.2"],
        env=os.environ | {"COLUMNS": "120"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert training.wait(120) == 0
    shown, _ = watching.communicate(timeout=30)
    assert watching.returncode == 0
    assert f"{run}: finished" in shown
    assert "Step 2, right on T in %" in shown


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["{tmp}"], "RUN: {tmp}: is no run directory (so far); name the output_dir of a training"),
        (["{tmp}", "--every", "0"], "--every: 0.0: must be above 0; 2 looks"),
        (["{tmp}", "--lines", "-1"], "--lines: -1: must not be negative; 0 shows"),
    ],
)
def test_mistakes(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", *(word.format(tmp=tmp_path) for word in words)]) == 2
    assert error.format(tmp=tmp_path) in capsys.readouterr().err
