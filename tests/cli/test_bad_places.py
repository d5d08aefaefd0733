"""What the operating system refuses is one line with the file's name; what was done stays."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.store.checkpoint import commits_in, read_state

SMALL_FILES = """
import resource, signal, sys
from cotrain_dist.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
code = main(sys.argv[2:])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.exit(code)
"""


def run_with_small_files(num_bytes: int, *arguments: str) -> tuple[int, list[str]]:
    """A command that can write no file beyond a size, as on a full disk; exit code and errors."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, str(num_bytes), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def settings(digits_folder: Path, tmp_path: Path) -> list[str]:
    config = tiny_config(digits_folder, tmp_path / "run")
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    return ["train", "--config", str(tmp_path / "settings.yaml")]


def test_a_disk_that_is_full_at_the_first_commit(settings: list[str], tmp_path: Path) -> None:
    code, errors = run_with_small_files(60_000, *settings)
    assert code == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"error: {tmp_path}/run/checkpoints/a/pretrain-00001.tmp/")
    assert errors[0].endswith(": File too large; what was committed stays")
    assert list((tmp_path / "run" / "checkpoints" / "a").iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_commits_before(settings: list[str], tmp_path: Path) -> None:
    """The commits fit, the larger file of a saved model does not; a resume then ends the run."""
    run = tmp_path / "run"
    code, errors = run_with_small_files(400_000, *settings)
    sizes = {file: file.stat().st_size for file in run.rglob("*.safetensors")}
    if code == 0:  # the limit is above all files: look for one between
        pytest.fail(f"nothing is larger than the limit: {sizes}")
    assert code == 1
    assert len(errors) == 1, errors
    assert f"{run}/" in errors[0]
    assert not list(run.rglob("*.tmp"))
    for role in ("a", "b"):
        for commit in commits_in(run / "checkpoints" / role):
            read_state(commit)
    assert cli.main(["train", "--resume", str(run)]) == 0


@pytest.mark.parametrize("command", ["train", "reproduce", "calibrate"])
def test_a_directory_that_cannot_be_made(
    command: str, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "run"
    assert cli.main([command, *settings[1:], "--output_dir", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: output_dir: {output}: cannot be made (Not a directory); name ")
    assert error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def finished(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Copy it; do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    run_ranks(train_run, 1, folder, tiny_config(digits_folder, folder / "run"))
    return folder / "run"


@pytest.mark.parametrize("what", ["run.json", "history.jsonl", "history.jsonl cut"])
def test_a_damaged_file_of_a_run_is_named(
    what: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    file = run / what.split()[0]
    text = file.read_text()
    if what == "history.jsonl":
        file.write_text(text.replace('"epoch"', '"e\x00och"', 1))
    else:
        file.write_text(text[: len(text) // 2])
    assert cli.main(["train", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert str(file) in error
    assert error.count("\n") == 1
    assert "restore the file from a copy, or start a new run." in error


def test_any_refusal_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(error: OSError) -> int:
        def run(arguments: object) -> int:
            raise error

        monkeypatch.setattr("cotrain_dist.cli.commands.env.run", run)
        return cli.main(["env"])

    denied = PermissionError(errno.EACCES, "Permission denied", "some/file")
    assert refuse(denied) == 1
    assert capsys.readouterr().err == (
        "error: some/file: Permission denied; what was committed stays\n"
    )
    assert refuse(OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")) == 1
    assert "error: a -> b: Invalid cross-device link" in capsys.readouterr().err
    assert refuse(OSError("no number")) == 1
    assert "error: no number; what" in capsys.readouterr().err


def test_a_run_of_the_version_before_evaluates_and_predicts(
    digits_folder: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table was groups.parquet with a column `group`, and two keys had other names."""
    import pyarrow.parquet as pq

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    table = pq.read_table(run / "splits.parquet")
    metadata = table.schema.metadata
    table = table.rename_columns({"split": "group"}).replace_schema_metadata(metadata)
    pq.write_table(table, run / "groups.parquet")
    (run / "splits.parquet").unlink()
    text = (run / "config.yaml").read_text()
    text = text.replace("  batch_size: 32\n", "  chunk_size: 32\n")
    text = text.replace("splits_from", "groups_from").replace("  rule: disagreement\n", "")
    assert "chunk_size" in text
    (run / "config.yaml").write_text(text.replace("  loss: cross_entropy\n", ""))
    assert cli.main(["evaluate", str(run), "--output", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert figures["ensemble"]["top1"] == last["test"]["ensemble"]["top1"]
    image = next((digits_folder / "digit_3").iterdir())
    assert cli.main(["predict", str(run), str(image)]) == 0
    assert "labeled 1 images, skipped 0" in capsys.readouterr().err
