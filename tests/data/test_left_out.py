"""Equal images are in one split: in T and L, in two classes, in data.unlabeled, in old runs."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cotrain_dist.config import DataConfig
from cotrain_dist.data.copies import describe_left_out
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import SplitTable, draw_split_table, parse_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split


@pytest.fixture
def root(digits_folder: Path, tmp_path: Path) -> Path:
    """Three classes of 20 different images."""
    for digit in range(3):
        shutil.copytree(digits_folder / f"digit_{digit}", tmp_path / "own" / f"digit_{digit}")
    return tmp_path / "own"


def draw(root: Path, **changes: object) -> SplitTable:
    config = DataConfig(source="imagefolder", root=str(root), **changes)  # type: ignore[arg-type]
    return draw_split_table(list_images(config), config, seed=0)


def split_of(table: SplitTable, path: str, source: str = "imagefolder") -> Split:
    rows = zip(table.listing.sources, table.listing.paths, strict=True)
    return Split(int(table.splits[list(rows).index((source, path))]))


def assert_no_image_twice(table: SplitTable) -> None:
    used = [table.listing.digests[i] for i in (table.splits != Split.OUT).nonzero().flatten()]
    assert len(used) == len(set(used))


def test_the_first_of_equal_images_is_used_and_the_draw_stays(root: Path) -> None:
    for number in range(8):
        shutil.copy(root / "digit_1" / f"{number:02d}.png", root / "digit_1" / f"z{number}.png")
    table = draw(root)
    assert_no_image_twice(table)
    out = [table.listing.paths[i] for i in table.sample_ids(Split.OUT).tolist()]
    assert out == [f"digit_1/z{number}.png" for number in range(8)]
    assert describe_left_out(table.listing, table.splits) == ["left out: 8 copies of other images"]
    # What is drawn is drawn as if the copies were images like all others.
    listing = replace(table.listing, digests=tuple(map(str, range(len(table.splits)))))
    config = DataConfig(source="imagefolder", root=str(root))
    drawn = draw_split_table(listing, config, seed=0)
    used = table.splits != Split.OUT
    assert torch.equal(table.splits[used], drawn.splits[used])
    assert Split.OUT not in drawn.splits
    assert len({Split(i) for i in drawn.splits[~used].tolist()}) > 1  # T and L_A, say


def test_an_image_in_two_classes_is_not_used_and_named(root: Path) -> None:
    for number in range(7):
        shutil.copy(root / "digit_0" / f"{number:02d}.png", root / "digit_2" / f"z{number}.png")
    table = draw(root)
    assert_no_image_twice(table)
    assert len(table.sample_ids(Split.OUT)) == 14
    counts, pairs = describe_left_out(table.listing, table.splits)
    assert counts == "left out: 14 images whose copies have another label"
    shown = [f"digit_0/0{i}.png (digit_0) = digit_2/z{i}.png (digit_2)" for i in range(5)]
    assert pairs == f"7 image(s) with different labels: {'; '.join(shown)}; and 2 more"


def test_unlabeled_images_that_are_labeled_elsewhere(root: Path) -> None:
    """data.unlabeled may be data.root: then all of its images are copies."""
    shutil.copytree(root, root.parent / "more")
    (root.parent / "more" / "digit_0" / "00.png").write_bytes(b"another")
    fractions = {"test_fraction": 0.2, "labeled_fraction": 0.2}
    table = draw(root, unlabeled=str(root.parent / "more"), **fractions)
    assert_no_image_twice(table)
    assert table.splits[:60].tolist() == draw(root).splits.tolist()
    assert split_of(table, "digit_0/00.png", "unlabeled") is Split.U
    assert (table.splits[60:] == Split.OUT).sum() == 59
    # The very files of the labeled source are no copies: they are listed once.
    (root / "more.png").write_bytes((root / "digit_0" / "00.png").read_bytes() + b"x")
    table = draw(root, unlabeled=str(root), **fractions)
    assert table.listing.paths[60:] == ("more.png",)
    assert describe_left_out(table.listing, table.splits) == []
    (root / "more.png").unlink()
    with pytest.raises(UserError, match="holds no image beside those of the labeled"):
        draw(root, unlabeled=str(root), **fractions)


def test_test_images_stay_in_t(root: Path) -> None:
    exam = root.parent / "exam"
    for digit in range(3):
        (exam / f"digit_{digit}").mkdir(parents=True)
        for number in (3, 4, 5):
            path = f"digit_{digit}/{number:02d}.png"
            shutil.copy(root / path, exam / path)
    shutil.copy(root / "digit_0" / "06.png", exam / "digit_2" / "06.png")
    table = draw(root, test=str(exam), labeled_per_class=4)
    assert_no_image_twice(table)
    assert len(table.sample_ids(Split.T)) == 9
    for digit in range(3):
        assert split_of(table, f"digit_{digit}/03.png") is Split.OUT
        assert split_of(table, f"digit_{digit}/03.png", "test") is Split.T
    # Labeled in T as well, and in another way: one of the two is wrong.
    assert split_of(table, "digit_2/06.png", "test") is Split.OUT
    counts, pairs = describe_left_out(table.listing, table.splits)
    assert counts == (
        "left out: 9 copies of other images, 2 images whose copies have another label"
    )
    assert pairs.endswith(": digit_0/06.png (digit_0) = data.test: digit_2/06.png (digit_2)")


def test_left_out_images_come_back_from_the_table(root: Path) -> None:
    shutil.copy(root / "digit_1" / "00.png", root / "digit_1" / "z.png")
    table = draw(root)
    again = parse_split_table(table.to_parquet())
    assert torch.equal(again.splits, table.splits)
    assert again.digest == table.digest
    assert table.to_arrow().column("split").to_pylist().count("OUT") == 1
    assert describe_left_out(again.listing, again.splits) == ["left out: 1 copy of other images"]


def test_a_table_without_copies_says_nothing(root: Path) -> None:
    table = draw(root)
    assert describe_left_out(table.listing, table.splits) == []


@pytest.mark.parametrize(
    ("changes", "emptied", "pair"),
    [
        (
            {"test": "OWN"},
            "digit_0 in L_A, digit_1 in L_A, digit_2 in L_A, digit_0 in L_B, digit_1 in L_B, "
            "digit_2 in L_B, digit_0 in U, digit_1 in U, digit_2 in U",
            r"digit_0/\d\d.png \(digit_0\) = data.test: digit_0/\d\d.png \(digit_0\)",
        ),
        (
            {"labeled_per_class": 8, "test_fraction": 0.2, "unlabeled": "COPY"},
            "images without label in U",
            r"data.unlabeled: digit_0/00.png \(no label\) = digit_0/00.png \(digit_0\)",
        ),
    ],
    ids=["T is L", "U is L"],
)
def test_a_split_that_loses_all_of_a_class(
    changes: dict[str, object], emptied: str, pair: str, root: Path
) -> None:
    shutil.copytree(root, root.parent / "copy")
    places = {"OWN": str(root), "COPY": str(root.parent / "copy")}
    given = {key: places.get(str(value), value) for key, value in changes.items()}
    with pytest.raises(UserError) as caught:
        draw(root, **given)
    message = f"data.root: {emptied}: all are left out, as copies of other images, such as "
    assert re.match(re.escape(message) + pair + "; remove the copies", str(caught.value))
