"""The run directory: never written over, held by one process, counted by attempts."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cotrain_dist.errors import UserError
from cotrain_dist.store.run_directory import RunDirectory

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(lock: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.communicate()  # closes stdin, which ends it


@pytest.fixture
def package_logger() -> Iterator[logging.Logger]:
    """The package's logger, put back as it was."""
    package = logging.getLogger("cotrain_dist")
    handlers, level = list(package.handlers), package.level
    yield package
    for handler in [h for h in package.handlers if h not in handlers]:
        package.removeHandler(handler)
        handler.close()
    package.setLevel(level)


@pytest.mark.parametrize("exists", [True, False])
def test_create_makes_the_first_attempt(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "runs" / "one"
    if exists:
        path.mkdir(parents=True)
    run = RunDirectory(path)
    assert path.exists() == exists  # building one touches no disk
    run.create("seed: 1\n", b"")
    assert run.config.read_text() == "seed: 1\n"
    assert run.attempt == 1
    assert re.fullmatch("[0-9a-f]{16}", run.run_id)
    run.check_is_run()


def test_runs_have_ids_of_their_own(tmp_path: Path) -> None:
    runs = [RunDirectory(tmp_path / name) for name in "ab"]
    for run in runs:
        run.create("", b"")
    assert runs[0].run_id != runs[1].run_id


@pytest.mark.parametrize("content", ["file inside", "a file", "an earlier run"])
def test_create_writes_nothing_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run"
    if content == "a file":
        path.write_text("mine")
    elif content == "file inside":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        RunDirectory(path).create("seed: 1\n", b"")
    before = {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    message = f"output_dir: {path}: exists already and is never written over"
    with pytest.raises(UserError, match=re.escape(message)):
        RunDirectory(path).create("seed: 2\n", b"")
    assert {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_open_again_counts_attempts_and_keeps_the_id(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run")
    first.create("seed: 1\n", b"")
    run_id = first.run_id
    del first  # its lock ends with it, as with its process
    for attempt in (2, 3):
        run = RunDirectory(tmp_path / "run")
        run.open_again()
        run.count_attempt()
        assert (run.attempt, run.run_id) == (attempt, run_id)
        del run


@pytest.mark.parametrize("missing", ["config.yaml", "run.json", "directory"])
def test_open_again_wants_a_run(tmp_path: Path, missing: str) -> None:
    run = RunDirectory(tmp_path / "run")
    if missing != "directory":
        run.create("", b"")
        (run.path / missing).unlink()
    with pytest.raises(UserError, match=re.escape(f"--resume: {run.path}: is no run directory")):
        RunDirectory(run.path).open_again()


def test_directory_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create("", b"")
    path, lock = run.path, run.path / "lock"
    del run
    message = f"output_dir: {path}: is in use by a training that still runs"
    with held_by_another_process(lock):
        with pytest.raises(UserError, match=re.escape(message)):
            RunDirectory(path).open_again()
        assert RunDirectory(path).attempt == 1
    again = RunDirectory(path)
    again.open_again()
    again.count_attempt()
    assert again.attempt == 2


def test_json_is_written_whole(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for value in ({"a": [1, 2]}, {"a": None}):
        run.write_json("some.json", value)
        assert run.read_json("some.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_log_goes_on_after_that_of_an_earlier_attempt(
    tmp_path: Path, package_logger: logging.Logger
) -> None:
    run, part = RunDirectory(tmp_path), logging.getLogger("cotrain_dist.training.cotrain")
    run.start_log(3)
    part.info("first attempt")
    run.start_log(3)
    part.info("second attempt")
    lines = (tmp_path / "logs" / "rank-003.log").read_text().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == ["first attempt", "second attempt"]


def test_log_of_another_run_in_one_process(tmp_path: Path, package_logger: logging.Logger) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        RunDirectory(tmp_path / name).start_log(0)
        package_logger.info("in %s", name)
    for name in ("one", "two"):
        text = (tmp_path / name / "logs" / "rank-000.log").read_text()
        assert text.endswith(f" INFO in {name}\n")
        assert text.count("\n") == 1


def test_what_a_kill_in_the_first_moment_left_is_made_anew(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create("seed: 1\n", b"groups")
    (run.path / "run.json").unlink()
    del run
    again = RunDirectory(tmp_path / "run")
    again.create("seed: 2\n", b"others")
    assert again.config.read_text() == "seed: 2\n"
    assert again.splits.read_bytes() == b"others"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("my own")
    with pytest.raises(UserError, match="exists already"):
        RunDirectory(tmp_path / "mine").create("", b"")


@pytest.mark.parametrize("made_before", ["nothing", "runs", "runs/one"])
def test_what_create_has_made_can_be_taken_back(made_before: str, tmp_path: Path) -> None:
    if made_before != "nothing":
        (tmp_path / made_before).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    run = RunDirectory(tmp_path / "runs" / "one")
    run.create("seed: 1\n", b"")
    (run.path / "logs").mkdir()
    (run.path / "logs" / "rank-000.log").write_text("line")
    beside = run.checkpoints / "a" / "pretrain-00001.tmp"
    beside.mkdir(parents=True)
    (beside / "model.safetensors").write_bytes(b"half")
    run.history.cut_after(0)
    run.close()
    run.discard_unused()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kept", ["a line", "a commit", "another's", "resumed", "in use"])
def test_what_somebody_may_want_is_not_taken_back(kept: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create("seed: 1\n", b"")
    if kept == "a line":
        (run.path / "history.jsonl").write_text("{}\n")
    if kept == "a commit":
        (run.checkpoints / "b" / "pretrain-00001").mkdir(parents=True)
    if kept == "resumed":
        run.close()
        run = RunDirectory(run.path)
        run.open_again()
        run.count_attempt()
    if kept == "another's":
        run.close()
        run = RunDirectory(run.path)
        with pytest.raises(UserError, match="exists already"):
            run.create("seed: 1\n", b"")
    run.close()
    before = {p: p.is_dir() or p.read_bytes() for p in tmp_path.rglob("*")}
    if kept == "in use":
        with held_by_another_process(run.path / "lock"):
            run.discard_unused()
    else:
        run.discard_unused()
    assert {p: p.is_dir() or p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_file_of_the_users_stays_with_its_directory(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create("seed: 1\n", b"")
    (run.path / "notes.txt").write_text("mine")
    run.discard_unused()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]
