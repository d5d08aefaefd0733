"""The stream of pixels: equal for any number of readers, with and without a cache."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cotrain_dist.data.stream import Pixels, PixelSource
from cotrain_dist.data.views import View, whole_view
from cotrain_dist.errors import UserError
from cotrain_dist.store.pixels import NoRoom, PixelCache

BATCHES = [torch.tensor([3, 1, 4]), torch.tensor([0]), torch.tensor([5, 2]), torch.tensor([3])]
DIGESTS = [f"{number:064x}" for number in range(6)]
VIEW = whole_view(8)


def read_noise(sample_id: int) -> Image.Image:
    """Another image for each sample_id."""
    generator = np.random.default_rng(sample_id)
    return Image.fromarray(generator.integers(0, 256, (12, 16 + sample_id, 3), dtype=np.uint8))


def cache_in(folder: Path) -> PixelSource:
    return PixelSource(read_noise, open_cache=lambda view: opened(folder, view))


def opened(folder: Path, view: View) -> PixelCache:
    return PixelCache(folder, view.about(), DIGESTS, view.side)


def equal(one: Sequence[Pixels], other: Sequence[Pixels]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.values, b.values) and np.array_equal(a.sizes, b.sizes)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("num_readers", [0, 1, 3])
def test_batches_come_in_order(num_readers: int) -> None:
    source = PixelSource(read_noise, num_readers=num_readers)
    found = list(source.batches(VIEW, BATCHES))
    source.close()
    for batch, pixels in zip(BATCHES, found, strict=True):
        expected = [np.asarray(VIEW.prepare(read_noise(int(i)))) for i in batch]
        assert np.array_equal(pixels.values.numpy(), np.stack(expected))
        assert pixels.sizes.tolist() == [[16 + int(i), 12] for i in batch]
        assert pixels.aspects.tolist() == [(16 + int(i)) / 12 for i in batch]
        assert not pixels.unreadable.any()


@pytest.mark.parametrize("num_readers", [0, 2])
def test_a_cache_changes_no_pixel_and_spares_the_reader(num_readers: int, tmp_path: Path) -> None:
    reads = []

    def read(sample_id: int) -> Image.Image:
        reads.append(sample_id)
        return read_noise(sample_id)

    plain = list(PixelSource(read_noise).batches(VIEW, BATCHES))
    for _ in range(2):  # another run finds what the first one has kept
        source = PixelSource(
            read, num_readers=num_readers, open_cache=lambda view: opened(tmp_path, view)
        )
        for _ in range(2):
            assert equal(plain, list(source.batches(VIEW, BATCHES)))
        source.close()
    assert set(reads) == set(range(6))
    assert len(reads) == 6 if num_readers == 0 else len(reads) <= 7  # 3 may be read by both at once


def test_readers_end_with_the_source() -> None:
    source = PixelSource(read_noise, num_readers=2)
    stream = source.batches(VIEW, BATCHES)
    next(stream)
    assert any(thread.name.startswith("reader") for thread in threading.enumerate())
    stream.close()  # type: ignore[attr-defined]
    source.close()
    assert not any(thread.name.startswith("reader") for thread in threading.enumerate())


@pytest.mark.parametrize("num_readers", [0, 2])
@pytest.mark.parametrize(
    "error",
    [
        UserError("data.root", "a/0.png", "cannot be read", "repair it"),
        OSError(5, "I/O", "a/0.png"),
    ],
)
def test_an_error_of_the_reader_comes_whole(num_readers: int, error: Exception) -> None:
    def read(sample_id: int) -> Image.Image:
        if sample_id == 4:
            raise error
        return read_noise(sample_id)

    source = PixelSource(read, num_readers=num_readers)
    with pytest.raises(type(error)) as caught:
        list(source.batches(VIEW, BATCHES))
    assert caught.value is error
    source.close()


def test_what_a_tolerant_reader_skips_is_marked(tmp_path: Path) -> None:
    source = PixelSource(
        lambda sample_id: None if sample_id == 1 else read_noise(sample_id),
        open_cache=lambda view: opened(tmp_path, view),
    )
    for _ in range(2):  # what could not be read is not kept
        (pixels,) = source.batches(VIEW, BATCHES[:1])
        assert pixels.unreadable.tolist() == [False, True, False]
        assert not pixels.values[1].any()


@pytest.mark.parametrize("error", [NoRoom("no room"), PermissionError(13, "refused", "x")])
def test_without_a_cache_images_are_read_anew_and_one_line_says_so(error: Exception) -> None:
    said: list[str] = []

    def refuse(view: View) -> PixelCache:
        raise error

    source = PixelSource(read_noise, open_cache=refuse, tell=said.append)
    plain = list(PixelSource(read_noise).batches(VIEW, BATCHES))
    for _ in range(2):
        assert equal(plain, list(source.batches(VIEW, BATCHES)))
    (line,) = said
    assert "decoded images are not kept (" in line
    assert ("no room" in line) or ("x: refused" in line)


def test_a_disk_that_fills_up_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    cache = opened(tmp_path, VIEW)
    write, written = PixelCache.write, []

    def fill_up(self: PixelCache, sample_id: int, *rest: object) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(self.path))
        written.append(sample_id)
        write(self, sample_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PixelCache, "write", fill_up)
    source = PixelSource(read_noise, open_cache=lambda view: cache, tell=said.append)
    plain = list(PixelSource(read_noise).batches(VIEW, BATCHES))
    for _ in range(2):
        assert equal(plain, list(source.batches(VIEW, BATCHES)))
    (line,) = said
    assert "No space left on device" in line
    assert str(cache.path) in line


def test_a_cache_that_cannot_be_read_any_more_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    source = PixelSource(
        read_noise, open_cache=lambda view: opened(tmp_path, view), tell=said.append
    )
    plain = list(source.batches(VIEW, BATCHES))

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.preadv", fail)
    assert equal(plain, list(source.batches(VIEW, BATCHES)))
    assert set(said)
    assert all("Input/output error" in line for line in said)
    assert str(tmp_path) in said[0]


def test_two_views_have_a_cache_each(tmp_path: Path) -> None:
    source, other = cache_in(tmp_path), whole_view(16)
    sides = [
        next(iter(source.batches(view, BATCHES[:1]))).values.shape[1] for view in (VIEW, other)
    ]
    assert sides == [10, 20]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_pass_over_nothing() -> None:
    stream: Iterator[Pixels] = PixelSource(read_noise, num_readers=1).batches(VIEW, [])
    assert list(stream) == []
