"""`runs` and `env`: what lies below a folder and its state; versions for a report."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import FinishedRun
from histories import accuracy, cotrain_record, pretrain_record

from cotrain_dist.cli import main as cli
from cotrain_dist.reporting.overview import RunSummary, summaries_below
from cotrain_dist.store.records import CotrainRecord, Record
from cotrain_dist.version import __version__

HOLD_LOCK = (
    "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX);"
    "print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Another process that holds the run, as a training does."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(run / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.communicate(timeout=30)


def measured(epoch: int, a: float, b: float, seconds: float, **more: Any) -> CotrainRecord:
    test = {"a": accuracy(a), "b": accuracy(b), "ensemble": accuracy(1.0)}
    return cotrain_record(epoch, test, seconds=seconds, **more)


def write_run(folder: Path, history: Sequence[Record], **state: Any) -> Path:
    folder.mkdir(parents=True)
    run = {"run_id": "0" * 16, "attempt": 1} | state
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "lock").touch()
    if history:
        lines = "".join(json.dumps(record.to_json()) + "\n" for record in history)
        (folder / "history.jsonl").write_text(lines)
    return folder


PRETRAIN = [
    pretrain_record(role, epoch, seconds={"train": 10.0, "idle": extra})
    for role, extra in (("a", 0.0), ("b", 5.0))
    for epoch in (1, 2)
]


def only(folder: Path) -> RunSummary:
    (summary,) = summaries_below(folder)
    return summary


def test_status(tmp_path: Path) -> None:
    """A lock tells a training that runs from one that was stopped."""
    done = write_run(tmp_path / "b" / "done", [], finished=True)
    half = write_run(tmp_path / "a" / "half", PRETRAIN)
    assert [(s.path, s.status) for s in summaries_below(tmp_path)] == [
        (half, "stopped"),
        (done, "finished"),
    ]
    with locked(half):
        assert only(half).status == "running"
    assert only(half).status == "stopped"


def test_epochs_best_and_duration_by_hand(tmp_path: Path) -> None:
    history = [*PRETRAIN, measured(0, 0.5, 0.4, 0.0), measured(1, 0.6, 0.75, 100.0)]
    history.append(measured(2, 0.7, 0.7, 50.5))
    summary = only(write_run(tmp_path / "run", history))
    assert summary.num_epochs == 2
    assert summary.best == "75.0 % on T (B, epoch 1)"
    # Both models pre-train at a time: the slower one counts.
    assert summary.seconds == 30.0 + 150.5


def test_best_is_measured_on_v_where_there_is_one(tmp_path: Path) -> None:
    validation = {"a": accuracy(0.3), "b": accuracy(0.2), "ensemble": accuracy(0.9)}
    history = [measured(1, 0.9, 0.9, 1.0, validation=validation)]
    assert only(write_run(tmp_path / "run", history)).best == "30.0 % on V (A, epoch 1)"


def test_a_run_without_history(tmp_path: Path) -> None:
    summary = only(write_run(tmp_path / "run", []))
    assert (summary.num_epochs, summary.best, summary.seconds) == (0, "-", 0.0)


def test_a_real_run(finished_run: FinishedRun) -> None:
    summary = only(finished_run.path.parent)
    assert (summary.path, summary.status) == (finished_run.path, "finished")
    assert summary.num_epochs == 2
    best = max(
        record.validation[name].top1 for record in finished_run.cotrain for name in ("a", "b")
    )
    assert summary.best.startswith(f"{100 * best:.1f} % on V (")
    assert 0.0 < summary.seconds < 60.0


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = [*PRETRAIN, measured(1, 0.25, 0.5, 3600.0)]
    path = write_run(tmp_path / "run", history, finished=True)
    assert cli.main(["runs", str(tmp_path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [str(path), "finished", "1", "50.0 % on T (B, epoch 1)", "1:00:30"]


def test_runs_is_the_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs"]) == 2
    assert "error: DIR: runs: is no folder" in capsys.readouterr().err
    write_run(tmp_path / "runs" / "x", [], finished=True)
    assert cli.main(["runs"]) == 0
    assert "runs/x" in capsys.readouterr().out


def test_no_run_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", str(tmp_path)]) == 2
    assert f"error: DIR: {tmp_path}: holds no run; name one" in capsys.readouterr().err
    assert cli.main(["runs", str(tmp_path / "absent")]) == 2
    assert f"error: DIR: {tmp_path / 'absent'}: is no folder" in capsys.readouterr().err
    assert cli.main(["runs", str(tmp_path), "more"]) == 2
    assert "error: command line: cotrain-dist runs: unrecognized" in capsys.readouterr().err


def test_listing_changes_nothing(finished_run: FinishedRun, tmp_path: Path) -> None:
    """Also where a run was copied without its lock, and may not be written to."""
    run = Path(shutil.copytree(finished_run.path, tmp_path / "run"))
    (run / "lock").unlink()
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(state | {"finished": False}))
    before = sorted(run.rglob("*"))
    assert only(tmp_path).status == "stopped"
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content"), [("run.json", "{"), ("history.jsonl", '{"phase": "cotr')]
)
def test_one_damaged_run_does_not_hide_the_others(
    tmp_path: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed run may leave half a line; a full disk an empty file."""
    write_run(tmp_path / "good", [], finished=True)
    (write_run(tmp_path / "hurt", [measured(1, 0.5, 0.5, 1.0)]) / name).write_text(content)
    assert cli.main(["runs", str(tmp_path)]) in (0, 2)
    captured = capsys.readouterr()
    assert "hurt" in captured.out + captured.err


def test_env_names_versions_and_launcher(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SECRET_TOKEN", "xyz")
    assert cli.main(["env"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["cotrain_dist"] == __version__
    assert re.fullmatch("[0-9a-f]{12}", lines["source"])
    for name in ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors"):
        assert lines[name] == version(name)
    assert lines["SLURM_NTASKS"] == "4"
    assert "gloo" in lines["backends"]
    assert "SECRET_TOKEN" not in lines
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))


def test_env_tells_what_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotrain_dist.cli.commands import env

    monkeypatch.setattr(env, "PACKAGES", ("torch", "no-such-package"))
    assert cli.main(["env"]) == 0
    assert "no-such-package: not installed" in capsys.readouterr().out
    assert cli.main(["env", "more"]) == 2
    assert "command line: cotrain-dist env" in capsys.readouterr().err


@pytest.mark.slow
def test_env_runs_where_a_launcher_started_it() -> None:
    """It only reads: no world is joined."""
    environ = {"RANK": "1", "WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "cotrain_dist", "env"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "WORLD_SIZE: 2" in done.stdout
