"""The stream of image batches: a function of keys, not of any generator's history."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from cotrain_dist.config import RoleConfig
from cotrain_dist.data.sources import ReadImage
from cotrain_dist.errors import UserError
from cotrain_dist.keys import seeded

Transform = Callable[[Image.Image | None], Tensor]
"""RGB image -> [3, S, S] float32, normalized; None comes from a reader that skips."""


def train_transform(config: RoleConfig, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Random resized crop and horizontal flip; draws from torch's global generator."""
    transform: Transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                config.image_size,
                scale=(config.crop_min_area, 1.0),
                # As in Preprocessing: both kinds of passes see images resized in one way.
                interpolation=v2.InterpolationMode.BICUBIC,
            ),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )
    return transform


@dataclass(frozen=True)
class _Unread:
    """In place of an image, or of its batch: why it could not be read.

    A value, since of an error that is raised in a process of readers torch makes another one, with
    a traceback for a text.
    """

    error: UserError | OSError


class _KeyedImages(Dataset[Tensor | _Unread]):
    """Images by sample_id, each transformed under its own key."""

    def __init__(
        self, read: ReadImage, transform: Transform, key: tuple[int | str, ...] | None
    ) -> None:
        self._read, self._transform, self._key = read, transform, key

    def __getitem__(self, sample_id: int) -> Tensor | _Unread:
        try:
            image = self._read(sample_id)
        except (UserError, OSError) as error:
            return _Unread(error)
        if self._key is None:
            return self._transform(image)
        # A key for each image, not for a batch or a worker: other steps, ranks or numbers of
        # workers change no pixel.
        with seeded(*self._key, sample_id):
            return self._transform(image)


def _collate(images: list[Tensor | _Unread]) -> Tensor | _Unread:
    """A batch of pixels, or the first of its images that could not be read."""
    for image in images:
        if isinstance(image, _Unread):
            return image
    pixels: Tensor = default_collate(images)
    return pixels


def stream_batches(
    read: ReadImage,
    transform: Transform,
    batches: Sequence[Tensor],
    *,
    key: tuple[int | str, ...] | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Tensor]:
    """Pixels [n, 3, S, S] of each batch of sample_ids, in order; equal for any `num_workers`.

    `key`: of the random transforms, completed by the sample_id; None where there are none. What
    `read` raises is raised here, for any `num_workers`.
    """
    # Built for each pass, so workers and what they have cached end with it.
    loader = DataLoader(
        _KeyedImages(read, transform, key),
        # Given and not sampled: a sampler would have a state, which a resume would have to restore.
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else each loader draws from the global one
    )
    for batch in loader:
        if isinstance(batch, _Unread):
            raise batch.error
        yield batch


@dataclass(frozen=True)
class PixelSource:
    """The pixels of a run's images, by sample_id, and how they are loaded on this rank."""

    read: ReadImage
    num_workers: int = 0
    pin_memory: bool = False

    def batches(
        self,
        transform: Transform,
        batches: Sequence[Tensor],
        *,
        key: tuple[int | str, ...] | None = None,
    ) -> Iterator[Tensor]:
        """`stream_batches` of these images."""
        return stream_batches(
            self.read,
            transform,
            batches,
            key=key,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )
