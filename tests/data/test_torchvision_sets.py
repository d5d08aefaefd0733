"""Sets of torchvision from files on disk, and those that cannot be opened."""

import json
import re
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import image_reader, list_images
from cotrain_dist.data.sources.listing import ABSENT
from cotrain_dist.errors import UserError

CLASSES = {"MNIST": "7 - seven", "FashionMNIST": "Sneaker", "KMNIST": "ya"}
"""Name of class 7."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise URLError("no network in tests")

    for module in ("mnist", "dtd", "food101", "eurosat"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)


def config_of(root: Path, name: str, split: str = "train") -> DataConfig:
    return DataConfig(source="torchvision", name=name, root=str(root), split=split)


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST: magic number, sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str) -> None:
    """20 training images with gray 1 to 20 and labels 0 to 9 twice; 10 test images of gray 101."""
    raw = root / name / "raw"
    pixels = np.tile(np.arange(1, 21)[:, None, None], (1, 28, 28))
    write_idx(raw / "train-images-idx3-ubyte", pixels)
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(20) % 10)
    write_idx(raw / "t10k-images-idx3-ubyte", np.full((10, 28, 28), 101))
    write_idx(raw / "t10k-labels-idx1-ubyte", np.arange(10))


def save(path: Path, gray: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), gray).save(path)


@pytest.mark.parametrize("name", list(CLASSES))
def test_sets_like_mnist(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path, name)
    config = config_of(tmp_path, name)
    listing = list_images(config)
    assert listing.source == "torchvision"
    assert listing.paths == tuple(f"{i:08d}" for i in range(20))
    assert listing.class_ids.tolist() == [*range(10), *range(10)]
    assert listing.class_names[7] == CLASSES[name]
    assert len(set(listing.digests)) == 20
    assert image_reader(config, listing)(4).getpixel((0, 0)) == (5, 5, 5)

    test = config_of(tmp_path, name, "test")
    assert len(list_images(test).paths) == 10
    assert image_reader(test, list_images(test))(0).getpixel((0, 0)) == (101, 101, 101)


def test_eurosat(tmp_path: Path) -> None:
    for gray, name in enumerate(["River/River_1", "Forest/Forest_1", "River/River_2"]):
        save(tmp_path / "eurosat" / "2750" / f"{name}.jpg", 100 + gray)
    config = config_of(tmp_path, "EuroSAT")
    listing = list_images(config)
    assert listing.class_names == ("Forest", "River")
    assert listing.class_ids.tolist() == [0, 1, 1]
    assert image_reader(config, listing)(2).getpixel((0, 0)) == (102, 102, 102)


def write_dtd(root: Path) -> None:
    images, labels = root / "dtd" / "dtd" / "images", root / "dtd" / "dtd" / "labels"
    lines = {"train": ["wavy/0.jpg", "banded/1.jpg", "wavy/2.jpg"], "test": ["banded/3.jpg"]}
    labels.mkdir(parents=True)
    for split, names in lines.items():
        (labels / f"{split}1.txt").write_text("\n".join(names) + "\n")
        for name in names:
            save(images / name, 100 + int(Path(name).stem))


def test_dtd(tmp_path: Path) -> None:
    write_dtd(tmp_path)
    config = config_of(tmp_path, "DTD")
    listing = list_images(config)
    assert listing.class_names == ("banded", "wavy")
    assert listing.class_ids.tolist() == [1, 0, 1]
    assert image_reader(config, listing)(2).getpixel((0, 0)) == (102, 102, 102)
    test = config_of(tmp_path, "DTD", "test")
    assert image_reader(test, list_images(test))(0).getpixel((0, 0)) == (103, 103, 103)


def test_food101(tmp_path: Path) -> None:
    base = tmp_path / "food-101"
    (base / "meta").mkdir(parents=True)
    splits = {"train": {"ramen": ["ramen/1", "ramen/2"], "beignets": ["beignets/3"]}}
    splits["test"] = {"ramen": ["ramen/4"], "beignets": ["beignets/5"]}
    for split, classes in splits.items():
        (base / "meta" / f"{split}.json").write_text(json.dumps(classes))
        for name in (name for names in classes.values() for name in names):
            save(base / "images" / f"{name}.jpg", 100 + int(Path(name).stem))
    config = config_of(tmp_path, "Food101")
    listing = list_images(config)
    assert listing.class_names == ("beignets", "ramen")
    assert listing.class_ids.tolist() == [1, 1, 0]
    assert image_reader(config, listing)(2).getpixel((0, 0)) == (103, 103, 103)
    assert len(list_images(config_of(tmp_path, "Food101", "test")).paths) == 2


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_sets_in_pickles_are_refused(tmp_path: Path, name: str) -> None:
    rule = f"data.name: {name}: its files are pickles, which can execute code"
    with pytest.raises(UserError, match=re.escape(rule)):
        list_images(config_of(tmp_path, name))


@pytest.mark.parametrize("name", ["ImageNette", "mnist", "FakeData", "__name__"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    rule = f"data.name: {name}: is none of MNIST, FashionMNIST, KMNIST, DTD, Food101, EuroSAT"
    with pytest.raises(UserError, match=re.escape(rule)):
        list_images(config_of(tmp_path, name))


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST", "DTD", "Food101", "EuroSAT"])
def test_missing_files_without_a_network(tmp_path: Path, name: str) -> None:
    assert hasattr(torchvision.datasets, name)
    with pytest.raises(UserError) as caught:
        list_images(config_of(tmp_path, name))
    text = str(caught.value)
    assert text.startswith(f"data.name: {name}: cannot be opened in {tmp_path} (")
    assert "check data.split and the network" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["DTD", "Food101"])
def test_a_split_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"data.name: {name}: cannot be opened .*[Uu]nknown value"):
        list_images(config_of(tmp_path, name, "everything"))


@pytest.mark.parametrize("name", ["MNIST", "EuroSAT"])
def test_a_split_that_is_not_there_of_sets_with_two_or_none(tmp_path: Path, name: str) -> None:
    """Not quietly another split: T could be drawn from the images that were meant to train."""
    write_mnist(tmp_path, "MNIST")
    for kind in ("River", "Forest"):
        save(tmp_path / "eurosat" / "2750" / kind / "0.jpg", 0)
    with pytest.raises(UserError, match=r"data\.(name|split): .*validation|cannot be opened"):
        list_images(config_of(tmp_path, name, "validation"))


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x03" + b"\x00\x00\x00\x02" * 3], ids=len)
def test_a_damaged_file_is_one_error(tmp_path: Path, content: bytes) -> None:
    write_mnist(tmp_path, "MNIST")
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=r"data.name: MNIST: cannot be opened"):
        list_images(config_of(tmp_path, "MNIST"))


def test_a_missing_image_is_listed_and_cannot_be_read(tmp_path: Path) -> None:
    write_dtd(tmp_path)
    (tmp_path / "dtd" / "dtd" / "images" / "wavy" / "2.jpg").unlink()
    config = config_of(tmp_path, "DTD")
    listing = list_images(config)
    (missing,) = [i for i, size in enumerate(listing.sizes) if size == ABSENT]
    with pytest.raises(UserError, match=rf"data.name: DTD, sample {missing:08d}: .*\(No such file"):
        image_reader(config, listing)(missing)
