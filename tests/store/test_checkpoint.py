"""Commits that cannot be read: each is named, with the way out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cotrain_dist.errors import UserError
from cotrain_dist.runtime.collectives import RankGroup
from cotrain_dist.store.checkpoint import (
    MANIFEST,
    commit,
    commits_in,
    keep_last,
    read_state,
    read_tensors,
)

ALONE = RankGroup("alone", (0,), 0)


def make_commit(folder: Path) -> Path:
    target = folder / "cotrain-00001"
    commit(target, {"model": {"weight": torch.arange(3.0)}}, {"epoch": 1}, ALONE)
    return target


def test_a_commit_is_read_back(tmp_path: Path) -> None:
    target = make_commit(tmp_path)
    (tmp_path / "cotrain-00002.tmp").mkdir()
    assert commits_in(tmp_path) == [target]
    assert read_state(target) == {"epoch": 1}
    assert read_tensors(target, "model")["weight"].tolist() == [0.0, 1.0, 2.0]


def test_a_commit_of_another_format(tmp_path: Path) -> None:
    target = make_commit(tmp_path)
    manifest = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(UserError, match="has format 2, this version reads 1"):
        read_state(target)


def test_a_manifest_that_is_no_json(tmp_path: Path) -> None:
    target = make_commit(tmp_path)
    (target / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"cannot be read .*restore .*cotrain-00001"):
        read_state(target)


def test_a_file_that_is_not_the_manifests(tmp_path: Path) -> None:
    target = make_commit(tmp_path)
    (target / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="is missing or damaged: its SHA-256"):
        read_state(target)


def test_a_kill_in_the_middle_of_a_deletion_leaves_no_half_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in (1, 2, 3):
        commit(tmp_path / f"pretrain-{epoch}", {"x": {"x": torch.ones(2)}}, {}, ALONE)
    unlink, count = os.unlink, iter(range(9))

    def unlink_once(*args: Any, **options: Any) -> None:
        if next(count):
            raise SystemExit("killed here")
        unlink(*args, **options)

    monkeypatch.setattr(os, "unlink", unlink_once)
    with pytest.raises(SystemExit):
        keep_last(tmp_path, 2)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("pretrain-1*/*"))) == 2  # of three files
    assert [path.name for path in commits_in(tmp_path)] == ["pretrain-2", "pretrain-3"]
    keep_last(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2
