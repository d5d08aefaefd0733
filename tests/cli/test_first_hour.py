"""The first hour of a user: short tries, wrong paths, and words that say what is meant."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FinishedRun
from ranks import tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.cli.arguments import before_torch
from cotrain_dist.config import Config, DataConfig
from cotrain_dist.config.places import check_early
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.config.training import CotrainConfig, PretrainConfig
from cotrain_dist.errors import PeerUserError, UserError
from cotrain_dist.runtime.progress import Reporter

WITHOUT_TORCH = """
import sys
from cotrain_dist.cli.main import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("num_epochs", "pretrain", "cotrain"), [(0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 2, 1), (9, 2, 1)]
)
def test_the_warm_up_follows_a_short_try(num_epochs: int, pretrain: int, cotrain: int) -> None:
    assert PretrainConfig(num_epochs=num_epochs).num_warmup_epochs == pretrain
    assert CotrainConfig(num_epochs=num_epochs).num_warmup_epochs == cotrain


def test_a_try_of_two_epochs_trains(digits_folder: Path, tmp_path: Path) -> None:
    """With nothing said of a warm-up, and everything else as a new user would have it."""
    models = [f"--model_{name}.name=test_resnet" for name in "ab"]
    words = ["--data.root", str(digits_folder), "--data.image_size", "16", "--device", "cpu"]
    words += ["--pretrain.num_epochs", "2", "--cotrain.num_epochs", "1", *models]
    assert cli.main(["train", *words, "--output_dir", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", ["--output_dir", "THERE"], "output_dir: THERE: exists already and is never"),
        ("train", ["--output_dir", "THERE/file"], "output_dir: THERE/file: exists already"),
        ("train", ["--data.root", "MISSING"], "data.root: MISSING: is no folder"),
        ("plan", ["--data.root", "MISSING"], "data.root: MISSING: is no folder"),
        (
            "queue",
            ["--data.root", "MISSING", "--output", "NEW.csv"],
            "data.root: MISSING: is no folder",
        ),
        ("train", ["--data.table", "MISSING"], "data.table: MISSING: is no file"),
        ("train", ["--data.unlabeled", "MISSING"], "data.unlabeled: MISSING: is no folder"),
        ("train", ["--extra-labels", "MISSING"], "data.extra_labels: MISSING: is no file"),
        ("train", ["--version", "1"], "version: 1: no such key; --help lists all keys"),
        (
            "train",
            ["--warmup_epochs", "1"],
            "did you mean pretrain.warmup_epochs or cotrain.warmup",
        ),
        ("train", ["--data.image_size", "1000000"], "data.image_size: 1000000: must be 8 to 4096"),
        ("train", ["--model_a.image_size", "4"], "model_a.image_size: 4: must be 8 to 4096 pixels"),
    ],
)
def test_what_costs_nothing_is_checked_before_torch_is_loaded(
    command: str, words: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "THERE").mkdir()
    (tmp_path / "THERE" / "file").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, command, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["THERE", "file"]


@pytest.mark.parametrize(
    ("world", "shown"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, UserError),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, PeerUserError),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "2"}, None),
        ({}, UserError),
    ],
)
def test_ranks_of_several_nodes_are_checked_together(
    world: dict[str, str], shown: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node may have what this one lacks, and would wait for it: not before they meet."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    config = Config(data=DataConfig(source="imagefolder", root="MISSING"))
    if shown is None:
        check_early(config)
        return
    with pytest.raises(UserError, match="MISSING: is no folder") as caught:
        check_early(config)
    assert caught.type is shown


def test_a_person_at_a_terminal_is_told_of_the_first_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before_torch()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("RANK", "1")
    before_torch()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    before_torch()
    assert capsys.readouterr().err == "loading PyTorch ...\n"


def test_a_warning_is_shown_once_and_logged_each_time(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    reporter = Reporter(show=True)
    for line in ("R_A is empty", "R_A is empty", "R_B is empty"):
        reporter.warn(line)
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["warning: R_A is empty", "warning: R_B is empty"]
    assert caplog.messages.count("R_A is empty") == 2


def test_evaluate_says_which_model_is_the_best(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["evaluate", str(finished_run.path)]) == 0
    shown = capsys.readouterr().out
    assert "models/best is " in shown
    assert "chosen on V; the label that predict writes is the ensemble's" in shown
    output = str(tmp_path / "figures.txt")
    assert cli.main(["evaluate", str(finished_run.path), "--output", output]) == 2
    assert f"--output: {output}: must end in .json" in capsys.readouterr().err


def test_the_first_lines_count_what_is_skipped(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (digits_folder / "digit_3" / "notes.txt").write_text("no image")
    try:
        config = tiny_config(digits_folder, tmp_path / "run", cotrain={"num_epochs": 0})
        train_run(config)
        (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
        line = f"skipped in {digits_folder}: 1 files without the ending of an image (.txt)"
        assert line in capsys.readouterr().out
        assert cli.main(["plan", "--config", str(tmp_path / "settings.yaml")]) == 0
    finally:
        (digits_folder / "digit_3" / "notes.txt").unlink()
    shown = capsys.readouterr().out
    assert f"warning: {line}" in shown
    assert "warning: A and B are both test_resnet; two architectures see an image in two" in shown
