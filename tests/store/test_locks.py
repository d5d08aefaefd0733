"""A file system without locks: one clear line, and the training goes on."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from ranks import complaint, run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.config.places import is_free
from cotrain_dist.store.locks import why_no_locks
from cotrain_dist.store.run_directory import RunDirectory

FLOCK = "fcntl.flock"
NAMED = {number: os.strerror(number) for number in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)}


@pytest.fixture(params=NAMED, ids=errno.errorcode.get)
def refused(request: pytest.FixtureRequest) -> Iterator[str]:
    """A system that refuses every lock, and its words."""
    number: int = request.param
    with mock.patch(FLOCK, side_effect=OSError(number, NAMED[number])):
        yield NAMED[number]


def test_a_run_is_made_and_resumed_without_locks(
    refused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create("seed: 1\n", b"")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: output_dir: {tmp_path}/run: files cannot be locked here ({refused}), "
    )
    assert not run.is_in_use()
    run.close()
    again = RunDirectory(tmp_path / "run")
    again.open_again()
    again.count_attempt()
    assert again.attempt == 2
    again.close()
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_start_that_was_killed_is_still_known_as_one(refused: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create("seed: 1\n", b"")
    (tmp_path / "run" / "run.json").unlink()
    assert is_free(tmp_path / "run")


def test_another_error_is_not_taken_for_missing_locks(tmp_path: Path) -> None:
    refusal = mock.patch(FLOCK, side_effect=OSError(errno.EIO, "Input/output error"))
    with refusal, pytest.raises(OSError, match="Input/output error"):
        why_no_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_locks_are_used_where_there_are_any(tmp_path: Path) -> None:
    assert why_no_locks(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    run = RunDirectory(tmp_path / "run")
    run.create("seed: 1\n", b"")
    assert run.is_in_use()
    run.close()
    assert not run.is_in_use()


def _train_without_locks(config: Config) -> tuple[str, str]:
    """A body."""
    with mock.patch(FLOCK, side_effect=OSError(errno.ENOSYS, NAMED[errno.ENOSYS])):
        return complaint(config)


def test_a_training_tells_its_user_in_one_line(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        digits_folder, tmp_path / "run", pretrain={"num_epochs": 1}, cotrain={"num_epochs": 0}
    )
    assert run_ranks(_train_without_locks, 1, tmp_path, config) == [("", "no error")]
    printed = (tmp_path / "rank-0.out").read_text()
    assert printed.count("files cannot be locked here") == 1
    assert "Traceback" not in printed
