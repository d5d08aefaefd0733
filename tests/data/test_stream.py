"""The stream of batches: its order and pixels follow from keys, for any number of workers."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cotrain_dist.config import DataConfig
from cotrain_dist.data.stream import stream_batches, train_transform
from cotrain_dist.errors import UserError

BATCHES = [torch.tensor([3, 1, 4]), torch.tensor([0]), torch.tensor([5, 2])]
AUGMENT = train_transform(DataConfig(image_size=8), mean=(0.5,) * 3, std=(0.25,) * 3)


def read_noise(sample_id: int) -> Image.Image:
    """Another image for each sample_id."""
    generator = np.random.default_rng(sample_id)
    return Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))


def to_id(image: Image.Image) -> Tensor:
    """A transform without randomness: the red of the first pixel."""
    return torch.tensor(float(image.getpixel((0, 0))[0]))


def augmented(
    batches: Sequence[Tensor] = BATCHES, *, epoch: int = 1, num_workers: int = 0
) -> list[Tensor]:
    key = (0, "augment", "a", epoch)
    return list(stream_batches(read_noise, AUGMENT, batches, key=key, num_workers=num_workers))


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order(num_workers: int) -> None:
    found = list(stream_batches(read_noise, to_id, BATCHES, num_workers=num_workers))
    expected = [
        [float(read_noise(sample_id).getpixel((0, 0))[0]) for sample_id in batch]
        for batch in [[3, 1, 4], [0], [5, 2]]
    ]
    assert [batch.tolist() for batch in found] == expected
    assert len({pixel for batch in expected for pixel in batch}) == 6


def test_workers_do_not_change_the_pixels() -> None:
    assert equal(augmented(num_workers=0), augmented(num_workers=2))


def test_key_decides_the_pixels() -> None:
    first = augmented(epoch=1)
    torch.rand(5)
    assert equal(first, augmented(epoch=1))
    other = augmented(epoch=2)
    assert not any(map(torch.equal, first, other))


def test_batching_does_not_change_the_pixels() -> None:
    whole = augmented([torch.cat(BATCHES)])
    assert torch.equal(torch.cat(augmented()), whole[0])


def test_each_image_is_augmented_by_its_own_draw() -> None:
    def read_same(sample_id: int) -> Image.Image:
        return read_noise(0)

    (pixels,) = stream_batches(read_same, AUGMENT, [torch.tensor([0, 1, 2])], key=(0,))
    assert not torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[1], pixels[2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_global_generator_is_left_alone(num_workers: int) -> None:
    before = torch.get_rng_state()
    assert len(augmented(num_workers=num_workers)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_no_batches_give_no_items() -> None:
    assert augmented([]) == []


def test_train_transform_gives_normalized_float32() -> None:
    pixels = AUGMENT(Image.new("RGB", (20, 10), (255, 0, 51)))
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), torch.float32)
    expected = torch.tensor([2.0, -2.0, (0.2 - 0.5) / 0.25])
    torch.testing.assert_close(pixels.amin(dim=(1, 2)), expected)
    torch.testing.assert_close(pixels.amax(dim=(1, 2)), expected)


def test_train_transform_crops_and_flips() -> None:
    # red from 0 on the left to 255 on the right: a flip turns the slope, a crop cuts the range
    ramp = np.zeros((256, 256, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(256)
    image = Image.fromarray(ramp)
    rows = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(20):
            rows.append(AUGMENT(image)[0, 4])
    slopes = {bool(row[-1] > row[0]) for row in rows}
    assert slopes == {True, False}
    assert len({round(float((row[-1] - row[0]).abs()), 3) for row in rows}) > 5


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "error",
    [
        UserError("data.root", "a/0.png", "cannot be read", "repair it"),
        OSError(5, "I/O", "a/0.png"),
    ],
)
def test_an_error_of_the_reader_comes_whole(num_workers: int, error: Exception) -> None:
    def read(sample_id: int) -> Image.Image:
        if sample_id == 4:
            raise error
        return read_noise(sample_id)

    with pytest.raises(type(error)) as caught:
        list(stream_batches(read, to_id, BATCHES, num_workers=num_workers))
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)
