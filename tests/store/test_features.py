"""Features on disk: what is read is what was written, damage is noticed, folders are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cotrain_dist.errors import UserError
from cotrain_dist.store import features
from cotrain_dist.store.features import FeatureStore, default_folder

ABOUT = {"weights": "abc", "dtype": "float32"}
NUM_IMAGES = 11


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BLOCK_SIZE", 4)


def filled(folder: Path, **changes: str) -> tuple[FeatureStore, torch.Tensor]:
    store = FeatureStore(folder, ABOUT | changes, NUM_IMAGES, 3)
    rows = torch.arange(NUM_IMAGES * 3).reshape(NUM_IMAGES, 3) / 7
    for block in range(store.num_blocks):
        start, stop = store.bounds(block)
        store.write(block, rows[start:stop])
    return store, rows


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store, rows = filled(tmp_path)
    assert (store.num_blocks, store.bounds(2)) == (3, (8, 11))
    assert all(store.has(block) for block in range(3))
    ids = torch.tensor([10, 0, 4, 3, 4])
    for fresh in (store, FeatureStore(tmp_path, ABOUT, NUM_IMAGES, 3)):
        assert torch.equal(fresh.read(ids), rows[ids])
    assert store.read(ids[:0]).shape == (0, 3)
    assert json.loads((store.path / "about.json").read_text()) == ABOUT


def test_half_precision_rounds_and_takes_half_of_the_disk(tmp_path: Path) -> None:
    store, rows = filled(tmp_path, dtype="float16")
    found = store.read(torch.arange(NUM_IMAGES))
    assert found.dtype == torch.float32
    assert torch.equal(found, rows.half().float())
    assert (store.path / "00000.features").stat().st_size == 4 * 3 * 2


def test_other_weights_have_a_folder_of_their_own(tmp_path: Path) -> None:
    paths = {filled(tmp_path, weights=name)[0].path for name in ("abc", "abd")}
    assert len(paths) == 2
    assert {path.parent for path in paths} == {tmp_path}


@pytest.mark.parametrize("damage", ["cut", "flipped", "no features", "no json", "json", "shape"])
def test_a_damaged_block_counts_as_missing_and_is_made_anew(tmp_path: Path, damage: str) -> None:
    store, rows = filled(tmp_path)
    file, about = store.path / "00001.features", store.path / "00001.json"
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[:-1])
        case "flipped":
            file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "no features":
            file.unlink()
        case "no json":
            about.unlink()
        case "json":
            about.write_text("{")
        case "shape":
            about.write_text(about.read_text().replace("4", "5"))
    assert [store.has(block) for block in range(3)] == [True, False, True]
    store.write(1, rows[4:8])
    assert store.has(1)
    assert np.frombuffer(file.read_bytes(), "<f4").shape == (12,)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"data.feature_cache: .*cannot be written \(Not a direct"):
        filled(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "cotrain_dist" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "cotrain_dist" / "features"
