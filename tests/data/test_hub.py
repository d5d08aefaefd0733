"""Data sets of Hugging Face in their local forms, and names that are not there."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import image_reader, list_images
from cotrain_dist.data.splits import draw_split_table, parse_split_table
from cotrain_dist.errors import UserError

NAMES = ["zebra", "ant"]  # in no sorted order


@pytest.fixture(autouse=True)
def _no_network_and_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def rows_of(
    labels: Sequence[Any], label: Any = None, image: str = "image", first_gray: int = 0
) -> datasets.Dataset:
    """One image a label, in a gray of its own, from `first_gray` on."""
    label = label or datasets.ClassLabel(names=NAMES)
    columns = {
        image: [Image.new("L", (4, 4), first_gray + i) for i in range(len(labels))],
        "label": list(labels),
    }
    features = datasets.Features({image: datasets.Image(), "label": label})
    return datasets.Dataset.from_dict(columns, features=features)


def config_of(folder: Path | str, **changes: object) -> DataConfig:
    return DataConfig(source="hub", name=str(folder), **changes)  # type: ignore[arg-type]


def save(rows: datasets.Dataset | datasets.DatasetDict, folder: Path, how: str) -> Path:
    """Write the rows so that they are the split `train`."""
    if how == "parquet":
        folder.mkdir(parents=True)
        rows.to_parquet(folder / "train-00000-of-00001.parquet")
    elif how == "dict":
        datasets.DatasetDict({"train": rows}).save_to_disk(folder)
    else:
        rows.save_to_disk(folder)
    return folder


def grays(config: DataConfig) -> list[int]:
    listing = list_images(config)
    read = image_reader(config, listing)
    return [read(i).getpixel((0, 0))[0] for i in range(len(listing.paths))]


@pytest.mark.parametrize("how", ["parquet", "saved", "dict"])
def test_rows_are_listed_and_read_from_every_local_form(tmp_path: Path, how: str) -> None:
    config = config_of(save(rows_of([0, 1, -1, 1, None]), tmp_path / "set", how))
    listing = list_images(config)
    assert listing.source == "hub"
    assert listing.paths == tuple(f"{i:08d}" for i in range(5))
    assert listing.class_names == ("zebra", "ant")
    assert listing.class_ids.tolist() == [0, 1, -1, 1, -1]
    assert len(set(listing.digests)) == 5
    assert min(listing.sizes) > 50  # of the PNG, not of the pixels
    read = image_reader(config, listing)
    assert [read(i).getpixel((0, 0)) for i in (3, 0)] == [(3, 3, 3), (0, 0, 0)]
    assert read(1).mode == "RGB"


def test_every_form_lists_the_same(tmp_path: Path) -> None:
    rows = rows_of([0, 1, 1])
    listings = [
        list_images(config_of(save(rows, tmp_path / how, how)))
        for how in ("parquet", "saved", "dict")
    ]
    assert listings[0].digests == listings[1].digests == listings[2].digests
    assert listings[0].sizes == listings[1].sizes == listings[2].sizes


@pytest.mark.parametrize(
    ("labels", "feature", "names", "ids"),
    [
        (["b", "a", None, "", "b"], datasets.Value("string"), ("a", "b"), [1, 0, -1, -1, 1]),
        ([7, 3, -1, None, 3], datasets.Value("int64"), ("3", "7"), [1, 0, -1, -1, 0]),
        ([True, False, None], datasets.Value("bool"), ("False", "True"), [1, 0, -1]),
    ],
    ids=["text", "numbers", "yes or no"],
)
def test_labels_of_other_types(
    tmp_path: Path, labels: list[Any], feature: Any, names: tuple[str, ...], ids: list[int]
) -> None:
    listing = list_images(config_of(save(rows_of(labels, feature), tmp_path / "set", "saved")))
    assert listing.class_names == names
    assert listing.class_ids.tolist() == ids


def test_a_class_without_rows_is_named_when_groups_are_drawn(tmp_path: Path) -> None:
    """The names of a ClassLabel count, also of those that do not occur."""
    config = config_of(save(rows_of([0] * 10), tmp_path / "set", "saved"))
    with pytest.raises(UserError, match=r"ant \(0 images\): each class needs"):
        draw_split_table(list_images(config), config, seed=0)


def test_rows_without_label_come_back_from_the_table(tmp_path: Path) -> None:
    config = config_of(save(rows_of([0, 1, None] * 6), tmp_path / "set", "saved"))
    table = draw_split_table(list_images(config), config, seed=0)
    again = parse_split_table(table.to_parquet())
    assert again.class_ids.tolist() == [0, 1, -1] * 6
    assert again.class_names == ("zebra", "ant")
    assert again.digest == table.digest


@pytest.mark.parametrize(
    ("split", "expected"), [("train", [0, 1, 2, 3]), ("test", [100, 101]), ("val", [200, 201])]
)
def test_a_split_of_parquet_files_is_found_by_the_start_of_their_names(
    tmp_path: Path, split: str, expected: list[int]
) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    rows_of([0, 1]).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    rows_of([0, 1], first_gray=2).to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    rows_of([0, 1], first_gray=100).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    rows_of([0, 1], first_gray=200).to_parquet(folder / "data" / "validation.parquet")
    assert grays(config_of(folder, split=split)) == expected


def test_parquet_files_without_splits_are_all_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    rows_of([0, 1]).to_parquet(tmp_path / "set" / "0000.parquet")
    rows_of([0, 1], first_gray=2).to_parquet(tmp_path / "set" / "0001.parquet")
    assert grays(config_of(tmp_path / "set")) == [0, 1, 2, 3]


def test_a_split_that_is_not_there_among_named_ones(tmp_path: Path) -> None:
    """A mistyped split must not be T and training images at once."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows_of([0, 1]).to_parquet(folder / "train-00000-of-00001.parquet")
    rows_of([0, 1], first_gray=2).to_parquet(folder / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match=re.escape(f"data.name: {folder}: split validation cannot")):
        list_images(config_of(folder, split="validation"))


def test_a_split_of_a_dictionary(tmp_path: Path) -> None:
    rows = {"train": rows_of([0, 1]), "test": rows_of([0, 1], first_gray=9)}
    datasets.DatasetDict(rows).save_to_disk(tmp_path / "set")
    assert grays(config_of(tmp_path / "set", split="test")) == [9, 10]
    with pytest.raises(UserError, match=r"data.name: .*set: split val cannot be loaded"):
        list_images(config_of(tmp_path / "set", split="val"))


def test_other_columns(tmp_path: Path) -> None:
    rows = rows_of([0, 1], image="picture").rename_column("label", "kind")
    config = config_of(
        save(rows, tmp_path / "set", "saved"), image_column="picture", label_column="kind"
    )
    assert list_images(config).class_ids.tolist() == [0, 1]
    assert grays(config) == [0, 1]


@pytest.mark.parametrize("key", ["image_column", "label_column"])
def test_columns_that_are_not_there(tmp_path: Path, key: str) -> None:
    folder = save(rows_of([0, 1]), tmp_path / "set", "saved")
    rule = f"data.{key}: nope: {folder} has the columns image, label; name one of them"
    with pytest.raises(UserError, match=re.escape(rule)):
        list_images(config_of(folder, **{key: "nope"}))


def test_a_column_without_images(tmp_path: Path) -> None:
    folder = save(rows_of([0, 1]), tmp_path / "set", "saved")
    with pytest.raises(UserError, match=r"data.image_column: label: holds ClassLabel.*, no images"):
        list_images(config_of(folder, image_column="label"))


def test_a_row_without_image_is_listed_and_cannot_be_read(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    columns = {"image": [Image.new("L", (4, 4)), None], "label": ["a", "b"]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    config = config_of(save(rows, tmp_path / "set", "saved"))
    read = image_reader(config, list_images(config))
    assert read(0).size == (4, 4)
    with pytest.raises(UserError, match=r"data.name: .*, row 00000001: .*\(the row holds no image"):
        read(1)


def test_a_row_whose_image_is_broken_is_one_error(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    broken = {"bytes": b"no image", "path": None}
    columns = {"image": [Image.new("L", (4, 4)), broken], "label": ["a", "b"]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    config = config_of(save(rows, tmp_path / "set", "saved"))
    read = image_reader(config, list_images(config))
    with pytest.raises(UserError, match=r"data\.\w+: .*cannot be read as an image"):
        read(1)


def test_rows_that_changed_since_the_groups_were_drawn(tmp_path: Path) -> None:
    """Like files: a run must not take other rows for those that it has labels of."""
    first = config_of(save(rows_of([0, 1] * 3), tmp_path / "one", "saved"))
    other = config_of(save(rows_of([0, 1]), tmp_path / "two", "saved"))
    listing = list_images(first)
    with pytest.raises(UserError, match=r"data.name: "):
        image_reader(other, listing)


def test_as_many_rows_with_other_images(tmp_path: Path) -> None:
    first = config_of(save(rows_of([0, 1]), tmp_path / "one", "saved"))
    larger = rows_of([0, 1]).map(lambda row: {"image": row["image"].resize((9, 9))})
    listing = list_images(first)
    read = image_reader(config_of(save(larger, tmp_path / "two", "saved")), listing)
    with pytest.raises(UserError, match=r"data.name: .*two: row 00000001 holds another image"):
        read(1)


def test_a_name_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rule = r"data.name: nobody/nothing: split train cannot be loaded \(.+\); check the name"
    with pytest.raises(UserError, match=rule) as caught:
        list_images(config_of("nobody/nothing"))
    assert "\n" not in str(caught.value)


def test_a_folder_without_parquet_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded \(the folder holds no Parquet file\)"):
        list_images(config_of(tmp_path))


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"data.name: .*set: split train cannot be loaded") as error:
        list_images(config_of(tmp_path / "set"))
    assert "\n" not in str(error.value)
