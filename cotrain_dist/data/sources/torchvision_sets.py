"""Classification sets of torchvision whose readers execute nothing that they read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources.decode import ImageError, unreadable
from cotrain_dist.data.sources.listing import (
    Listing,
    absent_content,
    check_number,
    content_of_pixels,
    listing_of,
)
from cotrain_dist.errors import UserError

BY_TRAIN_FLAG = ("MNIST", "FashionMNIST", "KMNIST")
"""Sets that know `train` and `test` and keep their pixels in arrays."""

BY_SPLIT = ("DTD", "Food101")
"""Sets of files with named splits."""

WHOLE = ("EuroSAT",)
"""Sets of files without splits."""

SUPPORTED = (*BY_TRAIN_FLAG, *BY_SPLIT, *WHOLE)

PICKLED = ("CIFAR10", "CIFAR100")


def list_samples(config: DataConfig) -> Listing:
    """All samples of the split, downloaded where they are missing."""
    samples = _open(config)
    # DTD and Food101 have no public name for their labels.
    labels = samples.targets if hasattr(samples, "targets") else samples._labels
    names = [str(name) for name in samples.classes]
    paths = [f"{index:08d}" for index in range(len(samples))]
    return listing_of(
        "torchvision",
        paths,
        [names[int(label)] for label in labels],
        [_content_of(samples, path, config) for path in paths],
        names,
    )


def sample_reader(config: DataConfig, listing: Listing) -> Callable[[str], Image.Image]:
    """Reads the image of a sample by its number."""
    samples = _open(config)
    check_number(len(samples), str(config.name), listing)
    return lambda path: _image_of(samples, path, config)


def _content_of(samples: Any, path: str, config: DataConfig) -> tuple[int, str]:
    try:
        return content_of_pixels(_image_of(samples, path, config))
    except ImageError:  # told of when it is read
        return absent_content("torchvision", path)


def _image_of(samples: Any, path: str, config: DataConfig) -> Image.Image:
    try:
        image: Image.Image = samples[int(path)][0]
        image.load()  # Pillow opens lazily: a damaged file shows here
    except Exception as error:  # as in `decode`
        raise unreadable("data.name", f"{config.name}, sample {path}", error) from error
    return image


def _open(config: DataConfig) -> Any:
    name = str(config.name)
    if name in PICKLED:
        raise UserError(
            "data.name",
            name,
            "its files are pickles, which can execute code when they are read",
            "use data.source hub with its Parquet form, or a folder of images",
        )
    if name not in SUPPORTED:
        raise UserError(
            "data.name",
            name,
            f"is none of {', '.join(SUPPORTED)}",
            "name one of them, or use a folder of images",
        )
    options: dict[str, Any] = {"root": Path(config.root or "data"), "download": True}
    if name in BY_TRAIN_FLAG:
        # A flag and not a name: any other word would quietly read the test images. Refused below.
        options["train"] = config.split == "train"
    known = {**dict.fromkeys(BY_TRAIN_FLAG, ("train", "test")), **dict.fromkeys(WHOLE, ("train",))}
    if config.split not in known.get(name, (config.split,)):
        raise UserError(
            "data.split",
            config.split,
            f"{name} has no such split",
            f"give {' or '.join(known[name])}",
        )
    if name in BY_SPLIT:
        options["split"] = config.split
    try:
        return getattr(datasets, name)(**options)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            "data.name",
            name,
            f"cannot be opened in {options['root']} ({str(error).splitlines()[0]})",
            "check data.split and the network, or put its files into data.root",
        ) from error
