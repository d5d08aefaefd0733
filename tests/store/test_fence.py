"""What is left of an attempt writes nothing once another job has taken the run over."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch

from cotrain_dist.errors import PeerLostError, UserError
from cotrain_dist.runtime.collectives import RankGroup
from cotrain_dist.store import locks
from cotrain_dist.store.checkpoint import commit, commits_in
from cotrain_dist.store.run_directory import RunDirectory

ALONE = RankGroup("alone", (0,), 0)


@pytest.fixture
def orphan(tmp_path: Path) -> RunDirectory:
    """A rank of the first attempt, whose lead rank has died."""
    run = RunDirectory(tmp_path / "run")
    run.create("seed: 1\n", b"")
    run.close()
    rank = RunDirectory(tmp_path / "run")
    rank.belong_to(1)
    return rank


def _take_over(path: Path) -> RunDirectory:
    job = RunDirectory(path)
    job.open_again()
    job.count_attempt()
    job.belong_to(job.attempt)
    return job


def _commit(run: RunDirectory) -> None:
    tensors = {"model": {"weight": torch.ones(1)}}
    commit(run.checkpoints / "b" / "cotrain-00001", tensors, {}, ALONE, run.fenced)


def test_an_attempt_that_was_taken_over_commits_nothing(orphan: RunDirectory) -> None:
    _commit(orphan)
    job = _take_over(orphan.path)
    begun = orphan.checkpoints / "b" / "cotrain-00001.tmp"
    begun.mkdir()  # by the job that has taken over
    made_at = (orphan.checkpoints / "b" / "cotrain-00001").stat().st_mtime_ns
    with pytest.raises(PeerLostError, match=r"attempt 2 has taken over .*: this one, 1, writes n"):
        _commit(orphan)
    assert begun.is_dir()
    assert (orphan.checkpoints / "b" / "cotrain-00001").stat().st_mtime_ns == made_at
    _commit(job)
    (target,) = commits_in(orphan.checkpoints / "b")
    assert target.stat().st_mtime_ns != made_at
    job.close()


def test_an_old_view_of_the_number_ends_nobody(orphan: RunDirectory) -> None:
    job = _take_over(orphan.path)
    (orphan.path / "fence").write_text("1\n")
    with job.fenced():
        pass
    (orphan.path / "fence").write_text("")
    with job.fenced():
        pass
    job.close()


def test_a_take_over_waits_for_what_is_being_written(orphan: RunDirectory) -> None:
    with ThreadPoolExecutor() as pool:
        with orphan.fenced(), orphan.fenced():  # as two roles in one process
            other = pool.submit(_take_over, orphan.path)
            with pytest.raises(TimeoutError):
                other.result(timeout=3 * locks.FENCE_RETRY_SECONDS)
        job = other.result(timeout=30)
    assert job.attempt == 2
    job.close()


def test_a_take_over_does_not_wait_for_ever(orphan: RunDirectory) -> None:
    with (
        orphan.fenced(),
        mock.patch.object(locks, "FENCE_SECONDS", 0.0),
        pytest.raises(UserError, match="a rank of an earlier attempt is still writing a commit"),
    ):
        _take_over(orphan.path)
    assert RunDirectory(orphan.path).attempt == 1
