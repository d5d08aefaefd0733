"""data.unlabeled and data.test: further folders whose images are all of U or of T."""

import itertools
import re
from pathlib import Path

import pytest
from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import image_reader, list_images
from cotrain_dist.data.splits import draw_split_table, parse_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split

_NUMBERS = itertools.count()


def save(path: Path, gray: int = 0) -> None:
    """An image that starts with a gray, and equals no other one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (4, 4), gray)
    image.putpixel((3, 3), next(_NUMBERS) % 256)
    image.save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`own` with classes a and b of 10 images, `more` without classes, `exam` with both classes."""
    for name in ("a", "b"):
        for i in range(10):
            save(tmp_path / "own" / name / f"{i}.png", 10)
        for i in range(2):
            save(tmp_path / "exam" / name / f"{i}.png", 30)
    for name in ("0.png", "deep/er/1.png", "a/2.png"):
        save(tmp_path / "more" / name, 20)
    (tmp_path / "more" / "notes.txt").write_text("no image")
    return tmp_path


def config_of(folders: Path, **changes: object) -> DataConfig:
    return DataConfig(source="imagefolder", root=str(folders / "own"), **changes)  # type: ignore[arg-type]


def test_unlabeled_images_are_of_u(folders: Path) -> None:
    config = config_of(folders, unlabeled=str(folders / "more"), test_fraction=0.2)
    listing = list_images(config)
    assert listing.sources == ("imagefolder",) * 20 + ("unlabeled",) * 3
    assert listing.paths[20:] == ("0.png", "a/2.png", "deep/er/1.png")
    assert listing.class_ids[20:].tolist() == [-1] * 3
    assert listing.class_names == ("a", "b")
    table = draw_split_table(listing, config, seed=0)
    assert table.splits[20:].tolist() == [Split.U] * 3
    assert len(table.sample_ids(Split.T)) == 4
    read = image_reader(config, listing)
    assert [read(i).getpixel((0, 0))[0] for i in (0, 20, 22)] == [10, 20, 20]


def test_own_images_are_grouped_as_without_further_ones(folders: Path) -> None:
    fractions = {"test_fraction": 0.2, "labeled_fraction": 0.2}
    plain = config_of(folders)
    config = config_of(folders, unlabeled=str(folders / "more"), **fractions)
    alone = draw_split_table(list_images(plain), plain, seed=0)
    both = draw_split_table(list_images(config), config, seed=0)
    assert alone.splits.tolist() == both.splits[:20].tolist()


def test_a_test_folder_is_t_and_nothing_else_is(folders: Path) -> None:
    config = config_of(folders, test=str(folders / "exam"))
    listing = list_images(config)
    assert listing.sources == ("imagefolder",) * 20 + ("test",) * 4
    assert listing.paths[20:] == ("a/0.png", "a/1.png", "b/0.png", "b/1.png")
    assert listing.class_ids[20:].tolist() == [0, 0, 1, 1]
    table = draw_split_table(listing, config, seed=0)
    assert table.sample_ids(Split.T).tolist() == [20, 21, 22, 23]
    assert image_reader(config, listing)(23).getpixel((0, 0)) == (30, 30, 30)


def test_a_test_folder_of_some_classes_keeps_their_ids(folders: Path) -> None:
    for name in ("b", "c"):
        for i in range(5):
            save(folders / "three" / name / f"{i}.png")
            save(folders / "three" / "a" / f"{i}.png")
    for name in ("c", "b"):
        save(folders / "some" / name / "0.png")
    config = DataConfig(
        source="imagefolder", root=str(folders / "three"), test=str(folders / "some")
    )
    listing = list_images(config)
    assert listing.class_names == ("a", "b", "c")
    assert listing.class_ids[-2:].tolist() == [1, 2]


def test_both_folders_at_once_come_back_from_the_table(folders: Path) -> None:
    config = config_of(folders, unlabeled=str(folders / "more"), test=str(folders / "exam"))
    table = draw_split_table(list_images(config), config, seed=0)
    assert table.listing.source == "imagefolder"
    counts = {split.name: len(table.sample_ids(split)) for split in Split}
    # Where images without labels fill U, no label is hidden.
    assert counts == {"T": 4, "V": 0, "L_A": 10, "L_B": 10, "U": 3, "OUT": 0}
    again = parse_split_table(table.to_parquet())
    assert again.listing.sources == table.listing.sources
    assert again.class_ids.tolist() == table.class_ids.tolist()
    assert again.digest == table.digest
    columns = table.to_arrow().to_pydict()
    assert columns["class"][20:] == [None, None, None, "a", "a", "b", "b"]


def test_digits_take_further_folders_as_well(folders: Path) -> None:
    for name in ("3", "7"):
        save(folders / "digits" / name / "0.png", 40)
    config = DataConfig(test=str(folders / "digits"), unlabeled=str(folders / "more"))
    listing = list_images(config)
    assert listing.class_ids[-2:].tolist() == [3, 7]
    assert image_reader(config, listing)(len(listing.paths) - 1).getpixel((0, 0))[0] == 40


def test_u_may_not_be_empty_with_a_test_folder_alone(folders: Path) -> None:
    """Images of T fill no U: L_A and L_B may not take all that is left."""
    config = config_of(folders, test=str(folders / "exam"), labeled_per_class=5)
    with pytest.raises(UserError, match=r"a \(10 images\), b \(10 images\): each class needs"):
        draw_split_table(list_images(config), config, seed=0)


def test_labeled_images_may_all_be_used_with_unlabeled_ones(folders: Path) -> None:
    config = config_of(
        folders, test=str(folders / "exam"), unlabeled=str(folders / "more"), labeled_per_class=5
    )
    table = draw_split_table(list_images(config), config, seed=0)
    assert table.sample_ids(Split.U).tolist() == [20, 21, 22]


@pytest.mark.parametrize("key", ["unlabeled", "test"])
def test_no_folder(folders: Path, key: str) -> None:
    for path in (folders / "absent", folders / "more" / "0.png"):
        with pytest.raises(UserError, match=re.escape(f"data.{key}: {path}: is no folder")):
            list_images(config_of(folders, **{key: str(path)}))


def test_an_unlabeled_folder_without_images(folders: Path) -> None:
    empty = folders / "empty"
    (empty / "deep").mkdir(parents=True)
    (empty / "deep" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=re.escape(f"data.unlabeled: {empty}: holds no image")):
        list_images(config_of(folders, unlabeled=str(empty)))


def test_a_test_folder_with_one_class(folders: Path) -> None:
    one = folders / "one"
    save(one / "a" / "0.png")
    with pytest.raises(UserError, match=re.escape(f"data.test: {one}: holds 1 class folder(s)")):
        list_images(config_of(folders, test=str(one)))


def test_a_test_folder_with_strangers(folders: Path) -> None:
    for name in ("zebra", "emu"):
        save(folders / "exam" / name / "0.png")
    rule = "has classes that the labeled images lack: emu, zebra; name its folders like"
    with pytest.raises(UserError, match=re.escape(f"data.test: {folders / 'exam'}: {rule}")):
        list_images(config_of(folders, test=str(folders / "exam")))


@pytest.mark.parametrize("key", ["unlabeled", "test"])
def test_a_changed_file_is_named_with_its_key(folders: Path, key: str) -> None:
    path = {"unlabeled": folders / "more" / "0.png", "test": folders / "exam" / "a" / "0.png"}[key]
    config = config_of(folders, unlabeled=str(folders / "more"), test=str(folders / "exam"))
    listing = list_images(config)
    path.unlink()
    with pytest.raises(UserError, match=re.escape(f"data.{key}: {path}: is missing")):
        image_reader(config, listing)
