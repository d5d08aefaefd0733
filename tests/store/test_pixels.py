"""The cache of decoded images: whole rows or none, whatever happens to its file."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotrain_dist.store.pixels import HEADER, NoRoom, PixelCache

SIDE, NUM = 4, 5
ROW = HEADER.itemsize + SIDE * SIDE * 3
DIGESTS = [f"{number:064x}" for number in (7, 3, 9, 3, 1)]
"""The second and the fourth image have equal bytes."""


def pixels_of(sample_id: int) -> Any:
    number = int(DIGESTS[sample_id], 16)
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def opened(folder: Path, **changes: Any) -> PixelCache:
    arguments = {"about": {"rule": "test"}, "digests": DIGESTS, "side": SIDE} | changes
    return PixelCache(folder, **arguments)


def fill(cache: PixelCache, sample_ids: tuple[int, ...] = (0, 1, 2, 4)) -> None:
    for sample_id in sample_ids:
        cache.write(sample_id, pixels_of(sample_id), 10 + sample_id, 20)


def found_in(cache: PixelCache) -> tuple[list[int], Any, Any]:
    pixels = np.zeros((NUM, SIDE, SIDE, 3), dtype=np.uint8)
    sizes = np.zeros((NUM, 2), dtype=np.uint32)
    return cache.read(np.arange(NUM), pixels, sizes), pixels, sizes


def test_what_was_written_comes_back_in_another_process_too(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert found_in(first)[0] == [0, 1, 2, 3, 4]
    fill(first)
    for cache in (first, opened(tmp_path)):
        missing, pixels, sizes = found_in(cache)
        assert missing == []
        assert np.array_equal(pixels, np.stack([pixels_of(i) for i in range(NUM)]))
        assert sizes.tolist() == [[10, 20], [11, 20], [12, 20], [11, 20], [14, 20]]
    assert first.path.stat().st_size == 4 * ROW, "equal files have one row"


def test_another_order_is_the_same_cache_and_other_images_are_another(tmp_path: Path) -> None:
    fill(opened(tmp_path))
    turned = opened(tmp_path, digests=DIGESTS[::-1])
    missing, pixels, _ = found_in(turned)
    assert missing == []
    assert np.array_equal(pixels[0], pixels_of(4))
    more = opened(tmp_path, digests=[*DIGESTS[:4], f"{2:064x}"])
    assert found_in(more)[0] == [0, 1, 2, 3, 4]
    assert found_in(opened(tmp_path, about={"rule": "other"}))[0] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("byte", [0, 8, 12, 16, ROW - 1])
def test_a_changed_byte_costs_its_own_row_alone(byte: int, tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache)
    start = 2 * ROW  # the rows are sorted by digest: 1, 3, 7, 9
    with cache.path.open("r+b") as file:
        file.seek(start + byte)
        (before,) = file.read(1)
        file.seek(start + byte)
        file.write(bytes([before ^ 0x55]))
    assert found_in(cache)[0] == [0]
    assert cache.num_damaged == 1
    fill(cache, (0,))
    assert found_in(cache)[0] == []


def test_a_torn_write_is_no_row(tmp_path: Path) -> None:
    """Killed between two pages: the pixels half there, or there without their header."""
    cache = opened(tmp_path)
    fill(cache)
    with cache.path.open("r+b") as file:
        file.seek(2 * ROW + HEADER.itemsize + 20)
        file.write(bytes(ROW - HEADER.itemsize - 20))
        file.seek(0)
        file.write(bytes(HEADER.itemsize))
    assert found_in(cache)[0] == [0, 4]


@pytest.mark.parametrize("size", [0, 1, 4 * ROW - 1, 4 * ROW + 5])
def test_a_file_of_another_size_is_begun_anew(size: int, tmp_path: Path) -> None:
    fill(opened(tmp_path))
    os.truncate(opened(tmp_path).path, size)
    cache = opened(tmp_path)
    assert cache.num_damaged == (size > 0)
    assert found_in(cache)[0] == [0, 1, 2, 3, 4]
    fill(cache)
    assert found_in(cache)[0] == []


def test_a_file_cut_short_under_a_reader_is_no_signal(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache)
    os.truncate(cache.path, ROW + 3)
    assert found_in(cache)[0] == [0, 1, 2, 3]


def test_a_foreign_file_costs_nothing_but_its_rows(tmp_path: Path) -> None:
    path = opened(tmp_path).path
    path.write_bytes(np.random.default_rng(0).bytes(4 * ROW))
    cache = opened(tmp_path)
    assert found_in(cache)[0] == [0, 1, 2, 3, 4]
    assert cache.num_damaged == 5


def _fill_slowly(folder: Path, num_rounds: int) -> None:
    for _ in range(num_rounds):
        fill(opened(folder))


def test_two_builders_at_once_both_end_right(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=_fill_slowly, args=(tmp_path, 50)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(timeout=60)
        assert builder.exitcode == 0
    assert found_in(opened(tmp_path))[0] == []


def test_limits_are_kept_and_told(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match=r"more would be over data\.cache_gb, 1e-09"):
        opened(tmp_path, most_gigabytes=1e-9)
    fill(opened(tmp_path))
    opened(tmp_path, most_gigabytes=1e-9)  # it is there already
    with pytest.raises(NoRoom, match="delete what is old there"):
        opened(tmp_path, about={"rule": "other"}, most_gigabytes=1e-6)
    with pytest.raises(NoRoom, match="GB are needed"):
        opened(tmp_path, side=10**7)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        opened(tmp_path / "file" / "cache")


def test_a_read_only_cache_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(opened(tmp_path), (0, 2))
    usual = Path.open

    def read_only(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode != "rb":
            raise OSError(30, "Read-only file system", str(self))
        return usual(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", read_only)
    cache = opened(tmp_path)
    assert not cache.can_write
    assert found_in(cache)[0] == [1, 3, 4]
    with pytest.raises(OSError, match="Bad file descriptor"):
        fill(cache, (1,))
    with pytest.raises(OSError, match="Read-only file system"):
        opened(tmp_path, about={"rule": "other"})


def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(tmp_path)
    monkeypatch.setattr(os, "pwritev", lambda file, parts, start: 3)  # as much as fitted
    with pytest.raises(OSError, match="No space left") as caught:
        fill(cache, (0,))
    assert caught.value.filename == str(cache.path)
    monkeypatch.undo()
    assert found_in(cache)[0] == [0, 1, 2, 3, 4]
