"""Tables of paths and labels: what is listed, what is read, and each mistake in one line."""

import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import image_reader, list_images
from cotrain_dist.data.splits import SplitTable, draw_split_table, parse_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split

TABLE = "path,label\nx/0.png,dog\nx/1.png,\ny/2.png,cat\nx/3.png, dog \ny/4.png,  \n"


def save_images(folder: Path, names: list[str]) -> None:
    """One image a name, in a gray of its own."""
    for gray, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), gray).save(path)


def write(folder: Path, content: str, encoding: str = "utf-8") -> Path:
    table = folder / "table.csv"
    table.write_text(content, encoding=encoding)
    return table


def config_of(table: Path, **changes: object) -> DataConfig:
    return DataConfig(source="csv", table=str(table), **changes)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_images(tmp_path, ["x/0.png", "x/1.png", "y/2.png", "x/3.png", "y/4.png"])
    return tmp_path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_rows_are_listed_in_their_order(folder: Path, encoding: str) -> None:
    """With a byte order mark as well: spreadsheets write one."""
    config = config_of(write(folder, TABLE, encoding))
    listing = list_images(config)
    assert listing.paths == ("x/0.png", "x/1.png", "y/2.png", "x/3.png", "y/4.png")
    assert listing.class_names == ("cat", "dog")
    assert listing.class_ids.tolist() == [1, -1, 0, 1, -1]
    assert set(listing.sources) == {"csv"}
    assert listing.sizes == tuple((folder / path).stat().st_size for path in listing.paths)
    read = image_reader(config, listing)
    assert [read(i).getpixel((0, 0)) for i in (4, 0)] == [(4, 4, 4), (0, 0, 0)]


def test_paths_start_from_the_root(tmp_path: Path) -> None:
    save_images(tmp_path / "elsewhere", ["x/0.png", "x/1.png", "y/2.png", "x/3.png", "y/4.png"])
    config = config_of(write(tmp_path, TABLE), root=str(tmp_path / "elsewhere"))
    listing = list_images(config)
    assert listing.paths[0] == "x/0.png"
    assert image_reader(config, listing)(2).getpixel((0, 0)) == (2, 2, 2)


def test_columns_may_have_other_names(folder: Path) -> None:
    table = write(folder, "note,kind,file\n,a,x/0.png\nhm,b,y/2.png\n")
    listing = list_images(config_of(table, path_column="file", label_column="kind"))
    assert listing.class_names == ("a", "b")
    assert listing.paths == ("x/0.png", "y/2.png")


def test_quoted_fields(tmp_path: Path) -> None:
    save_images(tmp_path, ["a,b.png", "c.png"])
    listing = list_images(config_of(write(tmp_path, 'path,label\n"a,b.png","x, y"\nc.png,z\n')))
    assert listing.paths == ("a,b.png", "c.png")
    assert listing.class_names == ("x, y", "z")


def test_unlabeled_rows_are_all_of_u(tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(30)]
    save_images(tmp_path, names)
    labels = ["cat"] * 10 + ["dog"] * 10 + [""] * 10
    rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    config = config_of(
        write(tmp_path, "\n".join(["path,label", *rows])), test_fraction=0.2, labeled_fraction=0.2
    )
    table = draw_split_table(list_images(config), config, seed=0)
    assert table.splits[20:].tolist() == [Split.U] * 10
    counts = {split.name: len(table.sample_ids(split)) for split in Split}
    assert counts == {"T": 4, "V": 0, "L_A": 4, "L_B": 4, "U": 8 + 10, "OUT": 0}

    stored = table.to_arrow().column("class").to_pylist()
    assert stored == ["cat"] * 10 + ["dog"] * 10 + [None] * 10
    again = parse_split_table(table.to_parquet())
    assert again.class_ids.tolist() == table.class_ids.tolist()
    assert again.digest == table.digest
    assert again.to_parquet() == table.to_parquet()


def test_without_fractions_every_label_is_used(tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(20)]
    save_images(tmp_path, names)
    labels = ["cat"] * 5 + ["dog"] * 3 + ["eel"] + [""] * 11
    rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    table_file = write(tmp_path, "\n".join(["path,label", *rows]))
    config = config_of(table_file)
    table = draw_split_table(list_images(config), config, seed=0)
    counts = {split.name: len(table.sample_ids(split)) for split in Split}
    assert (counts["T"], counts["V"], counts["U"]) == (0, 0, 11)
    assert {counts["L_A"], counts["L_B"]} == {4, 5}
    config = config_of(table_file, test_per_class=1, validation_fraction=0.3)
    with pytest.raises(UserError, match=r"eel \(1 images\): each class needs"):
        draw_split_table(list_images(config), config, seed=0)


def test_labeled_rows_may_all_be_used_where_others_fill_u(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(9)]
    save_images(tmp_path, names)
    labels = ["cat"] * 4 + ["dog"] * 4 + [""]
    rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    config = config_of(
        write(tmp_path, "\n".join(["path,label", *rows])),
        test_fraction=0.5,
        labeled_fraction=0.25,
    )
    table = draw_split_table(list_images(config), config, seed=0)
    assert table.sample_ids(Split.U).tolist() == [8]


def test_a_class_with_too_few_images_is_named(folder: Path) -> None:
    config = config_of(write(folder, TABLE), labeled_fraction=0.2)
    with pytest.raises(UserError, match=r"cat \(1 images\), dog \(2 images\): each class needs"):
        draw_split_table(list_images(config), config, seed=0)


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("", {}, "data.path_column: path: {table} has the columns (no rows)"),
        ("path,label\n", {}, "data.path_column: path: {table} has the columns (no rows)"),
        ("file,label\na,b\n", {}, "data.path_column: path: {table} has the columns file, label"),
        (
            TABLE,
            {"label_column": "kind"},
            "data.label_column: kind: {table} has the columns path, label; name one of them",
        ),
        (
            "path,label\nx/0.png,a\nnope.png,b\ngone.png,b\n",
            {},
            "data.table: {table}: 2 of 3 files are missing, the first is {folder}/nope.png",
        ),
        ("path,label\nx/0.png,a\n,b\n", {}, "data.table: {table}: 1 of 2 files are missing"),
        ("path,label\nx/0.png,a\nx,b\n", {}, "data.table: {table}: 1 of 2 files are missing"),
        ("path,label\nx/0.png,a\nx/1.png,a\n", {}, "data.table: {table}: labels 1 class(es)"),
        ("path,label\nx/0.png,\nx/1.png,\n", {}, "data.table: {table}: labels 0 class(es)"),
    ],
    ids=[
        *("empty", "header alone", "no path column", "no label column", "missing files"),
        *("empty path", "a folder", "one class", "no class"),
    ],
)
def test_mistakes_in_a_table(
    folder: Path, content: str, changes: dict[str, str], message: str
) -> None:
    table = write(folder, content)
    expected = message.format(table=table, folder=folder)
    with pytest.raises(UserError, match=re.escape(expected)):
        list_images(config_of(table, **changes))


def test_a_row_with_too_few_cells_is_one_error(folder: Path) -> None:
    table = write(folder, "label,path\na,x/0.png\nb\n")
    with pytest.raises(UserError, match=re.escape(f"data.table: {table}: ")):
        list_images(config_of(table))


def test_a_row_with_too_many_cells_and_no_such_column(folder: Path) -> None:
    table = write(folder, "path,kind\nx/0.png,a,b,c\n")
    with pytest.raises(UserError, match=re.escape(f"data.label_column: label: {table} has")):
        list_images(config_of(table))


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"path,label\n\xff\xfe,a\n", "can't decode")]
)
def test_a_table_that_cannot_be_read(tmp_path: Path, content: bytes | None, why: str) -> None:
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content)
    pattern = re.escape(f"data.table: {table}: cannot be read (") + f".*{why}"
    with pytest.raises(UserError, match=pattern):
        list_images(config_of(table))
    with pytest.raises(UserError, match=re.escape(f"data.table: {tmp_path}: cannot be read")):
        list_images(config_of(tmp_path))


def test_a_table_without_permission(folder: Path) -> None:
    table = write(folder, TABLE)
    table.chmod(0)
    if os.access(table, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(UserError, match=r"data.table: .*cannot be read \(.*Permission"):
        list_images(config_of(table))


def test_a_changed_file_is_named(folder: Path) -> None:
    config = config_of(write(folder, TABLE))
    listing = list_images(config)
    (folder / "x" / "3.png").write_bytes(b"other")
    with pytest.raises(UserError, match=r"data.root: .*x/3.png: has 5 bytes, not \d+ as in spl"):
        image_reader(config, listing)


def test_a_label_with_a_line_break_is_one_class(folder: Path) -> None:
    content = 'path,label\nx/0.png,"big\ndog"\nx/1.png,"big\ndog"\ny/2.png,cat\nx/3.png,cat\n'
    config = config_of(write(folder, content + "y/4.png,\n"), test_per_class=1)
    listing = list_images(config)
    assert listing.class_names == ("big\ndog", "cat")
    table = SplitTable(listing, torch.full((5,), Split.U))
    again = parse_split_table(table.to_parquet())
    assert again.class_names == listing.class_names
    assert again.class_ids.tolist() == [0, 0, 1, 1, -1]


def test_a_broken_unlabeled_image_is_named_with_its_own_key(folder: Path, tmp_path: Path) -> None:
    further = tmp_path / "further"
    further.mkdir()
    (further / "broken.png").write_bytes(b"no image")
    config = config_of(write(folder, TABLE), unlabeled=str(further))
    read = image_reader(config, list_images(config))
    with pytest.raises(UserError, match=r"data.unlabeled: .*broken.png: cannot be read as an im"):
        read(5)
