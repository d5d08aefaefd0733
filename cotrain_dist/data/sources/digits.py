"""The embedded data set: 1,797 handwritten digits of scikit-learn, 8 x 8 pixels."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from cotrain_dist.data.sources.listing import Listing, content_of, listing_of


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [1797, 8, 8] uint8 and classes [1797] int64."""
    # Its file, not its `load_digits`: importing scikit-learn takes as long as half of torch.
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    table = np.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    # 64 pixels from 0 to 16, and the class.
    pixels = (table[:, :-1] * (255 / 16)).round().astype(np.uint8)
    return pixels.reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def list_digits() -> Listing:
    """All digits."""
    pixels, targets = _digits()
    return listing_of(
        "digits",
        [f"{index:04d}" for index in range(len(pixels))],
        [str(target) for target in targets],
        [content_of(image.tobytes()) for image in pixels],
    )


def read_digit(path: str) -> Image.Image:
    """One digit, grey."""
    return Image.fromarray(_digits()[0][int(path)])
