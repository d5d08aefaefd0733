"""Any image file as RGB."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cotrain_dist.errors import UserError

EXTENSIONS = frozenset(Image.registered_extensions())
"""Endings of the files that Pillow reads, in lower case."""

# To read PostScript, Pillow starts Ghostscript: a program that runs what the file says.
FORMATS = [name for name in Image.ID if name != "EPS"]
"""Formats that are read, in Pillow's order. Of an animated image it is the first frame."""

MOST_STRETCHED = 200
"""Longest side over the shortest: of a line of pixels, resizing would make a huge image."""


class ImageError(UserError):
    """An image that cannot be used; `reason` says why, without its name."""

    reason = ""


def decode(content: bytes, key: str, name: object) -> Image.Image:
    """An image from the bytes of its file.

    Raises ImageError under `key`, naming an image that cannot be read.
    """
    try:
        if not content:
            raise ValueError("the file is empty")
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()  # Pillow opens lazily: a damaged file shows here
        return ImageOps.exif_transpose(image)
    # Of any kind: what Pillow raises for damaged files differs by format and place.
    except Exception as error:
        raise unreadable(key, name, error) from error


def unreadable(key: str, name: object, error: Exception) -> ImageError:
    """The error for an image that cannot be used."""
    reason = _reason_of(error)
    made = ImageError(
        key,
        name,
        f"cannot be read as an image ({reason})",
        "restore it (train --resume then goes on), or remove it and start anew",
    )
    made.reason = reason
    return made


def _reason_of(error: Exception) -> str:
    match error:
        case UnidentifiedImageError():  # its own words hold an address in memory
            return "of no image format that Pillow reads"
        case OSError(strerror=str(reason)):  # without the path, which stands before it
            return reason
        case MemoryError():
            return "needs more memory than there is"
    return " ".join(str(error).split()) or type(error).__name__


def usable_rgb(image: Image.Image, key: str, name: object) -> Image.Image:
    """A decoded image as `to_rgb` makes it. Raises ImageError for one that makes no square."""
    try:
        width, height = image.size
        if max(width, height) > MOST_STRETCHED * min(width, height):
            raise ValueError(
                f"{width} x {height} pixels: one side is more than {MOST_STRETCHED} times the other"
            )
        return to_rgb(image)
    except Exception as error:  # Pillow converts not every mode
        raise unreadable(key, name, error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as upright RGB: EXIF rotation applied, alpha laid on white, 16 bits scaled to 8.

    Raises ValueError for one that has no such form.
    """
    # Files come upright from `decode`, samples of torchvision do not; the second turn does
    # nothing.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        if not np.isfinite(np.asarray(image)).all():
            raise ValueError("its pixels are not all finite numbers")
        # 32-bit modes state no range: 16-bit PNG files come as I, and brighter values are cut.
        scale = 256 if np.asarray(image).max(initial=0) > 255 else 1
        image = Image.fromarray((np.asarray(image) / scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        # convert("RGB") alone would drop alpha and show the colors that lie hidden under it.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
