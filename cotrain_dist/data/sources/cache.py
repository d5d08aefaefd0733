"""Decoded images in memory."""

from collections.abc import Callable

import numpy as np
from PIL import Image


def cached(read: Callable[[int], Image.Image], side: int) -> Callable[[int], Image.Image]:
    """`read` with a memory of what it has read, shrunk to a shorter side of `side` pixels."""
    pixels: dict[int, np.ndarray] = {}

    def read_once(sample_id: int) -> Image.Image:
        if sample_id not in pixels:
            pixels[sample_id] = np.asarray(shrink(read(sample_id), side))
        return Image.fromarray(pixels[sample_id])

    return read_once


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with a shorter side of at most `side` pixels, its shape kept."""
    scale = side / min(image.size)
    if scale >= 1.0:
        return image
    width, height = (max(side, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
