"""Features on disk: what is read is what was written, damage is noticed, folders are refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from cotrain_dist.errors import UserError
from cotrain_dist.store import features
from cotrain_dist.store.features import FeatureStore, default_folder

ABOUT = {"weights": "abc", "dtype": "float32"}
NUM_IMAGES = 11
# In another order than that of the digests, and the last image is a copy of the first.
DIGESTS = [hashlib.sha256(bytes([i % 10])).hexdigest() for i in range(NUM_IMAGES)]
ROWS = torch.tensor([[(i % 10) / 7, i % 10, -1.0] for i in range(NUM_IMAGES)])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BLOCK_SIZE", 4)


def fill(store: FeatureStore, rows: torch.Tensor = ROWS) -> list[int]:
    """Write what is missing; returns the numbers of images that were."""
    store.look()
    missing = [store.missing(block) for block in range(store.num_blocks)]
    for ids in missing:
        if len(ids):
            store.write(ids, rows[ids])
    store.look()
    return [len(ids) for ids in missing]


def filled(folder: Path, **changes: str) -> FeatureStore:
    store = FeatureStore(folder, ABOUT | changes, DIGESTS, 3)
    assert fill(store) == [4, 4, 2]
    return store


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store = filled(tmp_path)
    ids = torch.tensor([10, 0, 4, 3, 4])
    fresh = FeatureStore(tmp_path, ABOUT, DIGESTS, 3)
    fresh.look()
    told = FeatureStore.from_json(json.loads(json.dumps(store.to_json())), DIGESTS)
    told.look()
    for own in (store, fresh, told):
        assert torch.equal(own.read(ids), ROWS[ids])
        assert [len(own.missing(block)) for block in range(3)] == [0, 0, 0]
    assert store.read(ids[:0]).shape == (0, 3)
    assert json.loads((store.path / "about.json").read_text()) == ABOUT


def test_a_copy_may_be_asked_for_by_any_of_its_ids(tmp_path: Path) -> None:
    """The labeled copy of two equal images may be the later one."""
    first, later = next(
        (DIGESTS.index(digest), id)
        for id, digest in enumerate(DIGESTS)
        if DIGESTS.index(digest) < id
    )
    store = FeatureStore(tmp_path, ABOUT, DIGESTS, 3)
    store.look()
    wanted = torch.tensor([later, 2])
    missing = torch.cat([store.missing(block, wanted) for block in range(store.num_blocks)])
    assert set(missing.tolist()) == {first, 2}
    store.write(missing, ROWS[missing])
    store.look()
    assert torch.equal(store.read(wanted), ROWS[wanted])
    assert all(len(store.missing(block, wanted)) == 0 for block in range(store.num_blocks))


def test_another_table_finds_the_images_that_it_shares(tmp_path: Path) -> None:
    """Another order, some images less, three more: the three alone are computed."""
    filled(tmp_path)
    more = [hashlib.sha256(bytes([i])).hexdigest() for i in (100, 101, 102)]
    digests = [more[0], *DIGESTS[8:2:-1], *more[1:]]
    rows = torch.cat([torch.full((1, 3), 50.0), ROWS[3:9].flip(0), torch.full((2, 3), 60.0)])
    store = FeatureStore(tmp_path, ABOUT, digests, 3)
    store.look()
    ids = torch.cat([store.missing(block) for block in range(store.num_blocks)])
    assert sorted(ids.tolist()) == [0, 7, 8]
    assert sum(fill(store, rows)) == 3
    assert torch.equal(store.read(torch.arange(9)), rows)
    assert sum(fill(FeatureStore(tmp_path, ABOUT, DIGESTS, 3))) == 0


def test_half_precision_rounds_and_takes_half_of_the_disk(tmp_path: Path) -> None:
    store = filled(tmp_path, dtype="float16")
    found = store.read(torch.arange(NUM_IMAGES))
    assert found.dtype == torch.float32
    assert torch.equal(found, ROWS.half().float())
    sizes = [file.stat().st_size for file in store.path.glob("*.features")]
    assert sorted(sizes) == [2 * 3 * 2, 4 * 3 * 2, 4 * 3 * 2]


def test_other_weights_have_a_folder_of_their_own(tmp_path: Path) -> None:
    paths = {filled(tmp_path, weights=name).path for name in ("abc", "abd")}
    assert len(paths) == 2
    assert {path.parent for path in paths} == {tmp_path}


@pytest.mark.parametrize("damage", ["cut", "flipped", "no features", "no json", "json", "images"])
def test_a_damaged_block_counts_as_missing_and_is_made_anew(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path)
    ids = FeatureStore(tmp_path / "empty", ABOUT, DIGESTS, 3).missing(1)
    content = ROWS[ids].numpy().tobytes()
    (file,) = [file for file in store.path.glob("*.features") if file.read_bytes() == content]
    about = file.with_suffix(".json")
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
        case "images":
            said = json.loads(about.read_text())
            about.write_text(json.dumps(said | {"images": [*said["images"], DIGESTS[0]]}))
    again = FeatureStore(tmp_path, ABOUT, DIGESTS, 3)
    assert fill(again) == [0, 4, 0]
    assert file.read_bytes() == content
    assert torch.equal(again.read(torch.arange(NUM_IMAGES)), ROWS)


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
