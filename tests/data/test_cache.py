"""Decoded images in memory."""

import pytest
from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources.decode import cached, shrink
from cotrain_dist.errors import UserError


def test_every_image_is_read_once_and_comes_back_equal() -> None:
    reads = []

    def read(sample_id: int) -> Image.Image:
        reads.append(sample_id)
        return Image.new("RGB", (4, 6), (sample_id, 0, 0))

    once = cached(read, side=8)
    for _ in range(3):
        for sample_id in (5, 7):
            image = once(sample_id)
            assert image.size == (4, 6)
            assert image.getpixel((3, 5)) == (sample_id, 0, 0)
    assert reads == [5, 7]


def test_what_a_caller_does_to_an_image_stays_with_it() -> None:
    once = cached(lambda sample_id: Image.new("RGB", (4, 4), "white"), side=8)
    once(0).paste("black", (0, 0, 4, 4))
    assert once(0).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 80), (10, 20)), ((80, 40), (20, 10)), ((10, 99), (10, 99)), ((9, 3), (9, 3))],
)
def test_the_shorter_side_is_shrunk_and_the_shape_kept(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert shrink(Image.new("RGB", size), 10).size == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_side": 4}, "data.cache_side: 4: must be at least 8 pixels"),
        ({"cache_side": 96, "num_workers": 2}, "data.cache_side: 96: is of no use to data.num_wor"),
    ],
)
def test_mistakes(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig(**settings)  # type: ignore[arg-type]
