"""What tests share: the end of the warm rank processes, and a small folder of images."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import close_ranks, run_ranks, tiny_config, train_run

IMAGES_PER_CLASS = 20


@pytest.fixture(scope="session", autouse=True)
def _no_rank_outlives_the_session() -> Iterator[None]:
    yield
    close_ranks()


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handwritten digits as an image folder: 10 classes of 20 images of 8 x 8 pixels."""
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


@pytest.fixture(scope="session")
def pretrained(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of a run of Step 1 with two test_efficientnet.

    They disagree on U, and each is surer than the other on some of it.
    """
    tmp_path = tmp_path_factory.mktemp("pretrained")
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_a={"name": "test_efficientnet"},
        model_b={"name": "test_efficientnet"},
        pretrain={"num_epochs": 6},
        cotrain={"num_epochs": 0},
    )
    run_ranks(train_run, 1, tmp_path, config)
    return tmp_path / "run" / "models"
