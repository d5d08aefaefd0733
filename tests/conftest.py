"""What tests share: the end of the warm rank processes, and a small folder of images."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import close_ranks

IMAGES_PER_CLASS = 30


@pytest.fixture(scope="session", autouse=True)
def _no_rank_outlives_the_session() -> Iterator[None]:
    yield
    close_ranks()


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handwritten digits as an image folder: 10 classes of 30 images of 8 x 8 pixels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits_folder")
    digits = load_digits()
    for digit in range(10):
        folder = root / f"digit_{digit}"
        folder.mkdir()
        images = digits.images[digits.target == digit][:IMAGES_PER_CLASS]
        for index, pixels in enumerate(images):
            Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(folder / f"{index:02d}.png")
    return root
