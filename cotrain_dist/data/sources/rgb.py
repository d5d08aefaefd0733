"""Any image as the models see it."""

import numpy as np
from PIL import Image, ImageOps


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as upright RGB: EXIF rotation applied, alpha laid on white, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        # 32-bit modes state no range: 16-bit PNG files come as I, and brighter values are cut.
        scale = 256 if np.asarray(image).max(initial=0) > 255 else 1
        image = Image.fromarray((np.asarray(image) / scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
