"""Any image file as RGB."""

import io

import numpy as np
from PIL import Image, ImageOps

from cotrain_dist.errors import UserError

EXTENSIONS = frozenset(Image.registered_extensions())
"""Endings of the files that Pillow reads, in lower case."""

UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow raises for damaged or oversized images, by format."""


def decode(content: bytes, key: str, name: object) -> Image.Image:
    """An image from the bytes of its file.

    Raises UserError under `key`, naming an image that cannot be read.
    """
    try:
        image = Image.open(io.BytesIO(content))
        image.load()  # Pillow opens lazily: a damaged file shows here
        upright = ImageOps.exif_transpose(image)
    except UNREADABLE as error:
        raise unreadable(key, name, error) from error
    return upright


def unreadable(key: str, name: object, error: Exception) -> UserError:
    """The error for an image that cannot be read."""
    why = " ".join(str(error).split())
    return UserError(
        key, name, f"cannot be read as an image ({why})", "repair or remove it and start anew"
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as upright RGB: EXIF rotation applied, alpha laid on white, 16 bits scaled to 8."""
    # Files come upright from `decode`, samples of torchvision do not; the second turn does
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
