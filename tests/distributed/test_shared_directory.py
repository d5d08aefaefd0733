"""Nodes that see a shared directory as it was a while ago: they wait, or all end for one reason."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks import complaint, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.errors import UserError
from cotrain_dist.store import atomic, checkpoint, shared
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.store.shared import wait_until_seen
from cotrain_dist.training import found

LATE_SECONDS = 1.0


@pytest.fixture(scope="module")
def finished(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run of two ranks, without its last commit of the world."""
    tmp_path = tmp_path_factory.mktemp("finished")
    config = tiny_config(digits_folder, tmp_path / "run")
    run_ranks(train_run, 2, tmp_path, config)
    return config, tmp_path / "run"


def _copy(finished: tuple[Config, Path], tmp_path: Path) -> Config:
    """Its copy, to be resumed from epoch 1 of Step 2."""
    config, run = finished
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "world" / "cotrain-00002")
    return tiny_config(Path(config.data.root or ""), tmp_path / "run")


@contextmanager
def _old_view(what: str) -> Iterator[None]:
    """On rank 1: a listing without the newest commit, or a manifest of other bytes."""
    commits_in, file_digest = checkpoint.commits_in, checkpoint.file_digest

    def older(folder: Path) -> list[Path]:
        return commits_in(folder)[:-1]

    def other(path: Path) -> str:
        return "0" if path.name == checkpoint.MANIFEST else file_digest(path)

    with ExitStack() as stack:
        if os.environ["RANK"] == "1" and what == "listing":
            stack.enter_context(mock.patch.object(found, "commits_in", older))
        if os.environ["RANK"] == "1" and what == "manifest":
            stack.enter_context(mock.patch.object(checkpoint, "file_digest", other))
            stack.enter_context(mock.patch.object(shared, "SEEN_WITHIN_SECONDS", LATE_SECONDS))
        yield


def _resume(config: Config, what: str) -> tuple[str, str]:
    """A body."""
    with _old_view(what):
        return complaint(config, True)


def test_all_ranks_go_on_from_the_commit_that_the_lead_rank_sees(
    finished: tuple[Config, Path], tmp_path: Path
) -> None:
    config = _copy(finished, tmp_path)
    assert run_ranks(_resume, 2, tmp_path, config, "listing") == [("", "no error")] * 2
    assert history_of(tmp_path / "run") == history_of(finished[1])


def test_a_rank_that_sees_another_commit_ends_all_with_one_error(
    finished: tuple[Config, Path], tmp_path: Path
) -> None:
    config = _copy(finished, tmp_path)
    lead, other = run_ranks(_resume, 2, tmp_path, config, "manifest")
    text = f"output_dir: {tmp_path}/run/checkpoints/world/cotrain-00001: another rank has written"
    assert other[0] == "UserError"
    assert other[1].startswith(text)
    assert "does not see the same after 1 s; name a directory on a file system that" in other[1]
    assert lead[0] == "PeerUserError"
    assert lead[1].startswith("rank 1 on ")
    assert text in lead[1]


def _write_late(config: Config) -> None:
    """A body: what rank 1 writes of its commits is seen a while later."""
    write = atomic.write_flushed

    def late(path: Path, content: bytes) -> None:
        if path.name == "buffers-1.safetensors":
            threading.Timer(LATE_SECONDS / 2, write, (path, content)).start()
        else:
            write(path, content)

    with mock.patch.object(atomic, "write_flushed", late):
        train_run(config)


def test_a_manifest_names_the_files_of_all_ranks(digits_folder: Path, tmp_path: Path) -> None:
    """Also where the lead rank sees them late."""
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        placement={"ranks_a": [0]},
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 0},
    )
    run_ranks(_write_late, 3, tmp_path, config)
    manifests = sorted((tmp_path / "run" / "checkpoints" / "b").glob("*/manifest.json"))
    assert len(manifests) == 2
    for manifest in manifests:
        files = json.loads(manifest.read_text())["files"]
        assert {"buffers-0.safetensors", "buffers-1.safetensors"} <= set(files)


def test_a_log_waits_for_the_directory_that_the_lead_rank_has_made(tmp_path: Path) -> None:
    maker = threading.Timer(LATE_SECONDS / 2, (tmp_path / "run").mkdir)
    maker.start()
    RunDirectory(tmp_path / "run").start_log(1)
    assert (tmp_path / "run" / "logs" / "rank-001.log").is_file()
    RunDirectory(tmp_path / "run").close()


def test_what_is_never_seen_is_named(tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        mock.patch.object(shared, "SEEN_WITHIN_SECONDS", LATE_SECONDS),
        pytest.raises(
            UserError, match=rf"output_dir: {tmp_path}/x: another rank has written it, b"
        ),
    ):
        wait_until_seen(tmp_path / "x")
    assert time.monotonic() - started < LATE_SECONDS + 5


def test_what_is_there_costs_no_wait(tmp_path: Path) -> None:
    asked: list[Any] = []
    with mock.patch.object(shared.time, "sleep", asked.append):
        wait_until_seen(tmp_path)
    assert asked == []
