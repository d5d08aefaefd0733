"""How an image becomes a square of uint8: what a pass reads, and what the pixel cache keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import PIL
from PIL import Image, features

from cotrain_dist.version import PIXELS_VERSION

MARGIN = 1.25
"""Side of what training reads, over the side of what the model sees: crops keep their detail, and
the largest ones are sampled at no more than this distance."""


@dataclass(frozen=True)
class View:
    """A rule that makes a square of `side` pixels of any RGB image. Views of one rule are equal."""

    rule: str
    side: int
    prepare: Callable[[Image.Image], Image.Image] = field(compare=False, repr=False)

    def about(self) -> Mapping[str, Any]:
        """JSON values that decide every pixel; the key of the cache with the images themselves."""
        return {
            "version": PIXELS_VERSION,
            "rule": self.rule,
            "side": self.side,
            "pillow": PIL.__version__,
            # Decoders of JPEG may differ in the last bit of a pixel.
            "libjpeg": features.version("libjpeg_turbo") or features.version("jpg"),
        }


def whole_view(image_size: int) -> View:
    """All of the image, squeezed into a square: random crops are cut from it, in its own shape."""
    side = round(MARGIN * image_size)

    def squeeze(image: Image.Image) -> Image.Image:
        # reducing_gap: Pillow first shrinks by whole factors; at 3 it promises next to no
        # difference.
        return image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)

    return View(f"whole, bicubic, margin {MARGIN}", side, squeeze)
