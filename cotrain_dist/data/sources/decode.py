"""Any image as the models see it, and images kept in memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

from cotrain_dist.errors import UserError

EXTENSIONS = frozenset(Image.registered_extensions())
"""Endings of the files that Pillow reads, in lower case."""

UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow raises for damaged or oversized images, by format."""


def decode(encoded: dict[str, Any], key: str, name: object) -> Image.Image:
    """An image from its `bytes`, or the file at its `path`.

    Raises UserError under `key`, naming an image that cannot be read.
    """
    try:
        decoded: Image.Image = ImageFeature().decode_example(encoded)
    except UNREADABLE as error:
        raise unreadable(key, name, error) from error
    return decoded


def unreadable(key: str, name: object, error: Exception) -> UserError:
    """The error for an image that cannot be read."""
    why = " ".join(str(error).split())
    return UserError(
        key, name, f"cannot be read as an image ({why})", "repair or remove it and start anew"
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as upright RGB: EXIF rotation applied, alpha laid on white, 16 bits scaled to 8."""
    # Files come upright from `datasets`, samples of torchvision do not; the second turn does
    # nothing.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        # 32-bit modes state no range: 16-bit PNG files come as I, and brighter values are cut.
        scale = 256 if np.asarray(image).max(initial=0) > 255 else 1
        image = Image.fromarray((np.asarray(image) / scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        # convert("RGB") alone would drop alpha and show the colors that lie hidden under it.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def cached(read: Callable[[int], Image.Image], side: int) -> Callable[[int], Image.Image]:
    """`read` with a memory of what it has read, shrunk to a shorter side of `side` pixels."""
    # Measured with Caltech-101, one thread, crops to 64 pixels: 3,480 images a second from a cache
    # of side 96, 1,360 to 1,540 without one (docs/performance.md).
    pixels: dict[int, np.ndarray] = {}

    def read_once(sample_id: int) -> Image.Image:
        if sample_id not in pixels:
            # An array and not the image, which whoever gets it may change.
            pixels[sample_id] = np.asarray(shrink(read(sample_id), side))
        return Image.fromarray(pixels[sample_id])

    return read_once


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with a shorter side of at most `side` pixels, its shape kept."""
    scale = side / min(image.size)
    if scale >= 1.0:
        return image
    width, height = (max(side, round(length * scale)) for length in image.size)
    # reducing_gap: Pillow first shrinks by whole factors; at 3 it promises next to no difference.
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
