"""Labels that come after the draw: which split they go to, and which rows are mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cotrain_dist.config import DataConfig
from cotrain_dist.data.extra_labels import add_labels
from cotrain_dist.data.label_studio import build_task
from cotrain_dist.data.sources.listing import Listing
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split

ROWS = (
    ("csv", "t.png", "cat", Split.T),
    ("csv", "v.png", "dog", Split.V),
    ("csv", "a.png", "cat", Split.L_A),
    ("csv", "b.png", "dog", Split.L_B),
    ("csv", "a2.png", "dog", Split.L_A),
    ("csv", "hidden.png", "dog", Split.U),
    ("unlabeled", "1.png", None, Split.U),
    ("unlabeled", "2.png", None, Split.U),
    ("unlabeled", "3.png", None, Split.U),
    ("unlabeled", "4.png", None, Split.U),
    ("unlabeled", "b.png", None, Split.U),
    ("unlabeled", "copy.png", None, Split.OUT),
    ("test", "1.png", "cat", Split.T),
)


@pytest.fixture
def table() -> SplitTable:
    names = ("cat", "dog")
    listing = Listing(
        sources=tuple(row[0] for row in ROWS),
        paths=tuple(row[1] for row in ROWS),
        class_ids=torch.tensor([-1 if row[2] is None else names.index(row[2]) for row in ROWS]),
        class_names=names,
        sizes=(1,) * len(ROWS),
        digests=tuple(map(str, range(len(ROWS)))),
    )
    return SplitTable(listing, torch.tensor([int(row[3]) for row in ROWS]))


def settings(folder: Path, *lines: str) -> DataConfig:
    (folder / "more.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return DataConfig(extra_labels=str(folder / "more.csv"))


def test_labels_leave_the_pool_in_turn(table: SplitTable, tmp_path: Path) -> None:
    """L_A has one image more, so L_B is first; rows that say nothing new change nothing."""
    lines = ["3.png,cat", "1.png,dog", "2.png,", "hidden.png,dog", "a.png,cat", "4.png,cat"]
    after = add_labels(table, settings(tmp_path, *lines))
    moved = {3: Split.L_B, 1: Split.L_A, "hidden": Split.L_B, 4: Split.L_A}
    expected = table.splits.clone()
    for name, split in moved.items():
        place = [row[:2] for row in ROWS].index(
            ("csv" if name == "hidden" else "unlabeled", f"{name}.png")
        )
        expected[place] = split
    assert torch.equal(after.splits, expected)
    labels = [after.class_ids[i].item() for i in (8, 6, 7, 5, 9)]
    assert labels == [0, 1, -1, 1, 0]
    assert table.class_ids[8] == -1  # the table before is another one


def test_a_marked_image_is_not_learned_unless_the_audit_is_given_up(
    table: SplitTable, tmp_path: Path
) -> None:
    is_audit = torch.tensor([row[1] == "1.png" and row[3] == Split.U for row in ROWS])
    marked = replace(table, is_audit=is_audit)
    config = replace(settings(tmp_path, "1.png,dog"), audit_images=1)
    with pytest.raises(UserError, match=r"1.png: is marked .*more.csv, or give --data"):
        add_labels(marked, config)
    after = add_labels(marked, replace(config, audit_images=0))
    assert after.splits[6] == Split.L_B
    assert after.is_audit is None
    other = add_labels(marked, replace(settings(tmp_path, "2.png,dog"), audit_images=1))
    assert other.is_audit is None


def test_of_two_files_of_one_name_the_unlabeled_one_is_meant(
    table: SplitTable, tmp_path: Path
) -> None:
    after = add_labels(table, settings(tmp_path, "b.png,cat"))
    assert after.class_ids.tolist()[3] == 1
    assert after.class_ids.tolist()[10] == 0
    assert after.splits[10] == Split.L_B


def test_one_answer_serves_all_and_an_export_will_do(table: SplitTable, tmp_path: Path) -> None:
    (tmp_path / "same.csv").write_text("path,label,same_as\n1.png,cat,\n2.png,,1.png\n")
    after = add_labels(table, DataConfig(extra_labels=str(tmp_path / "same.csv")))
    assert after.class_ids.tolist()[6:9] == [0, 0, -1]
    task = build_task("1.png", None, ["2.png"], [])
    choice = {"type": "choices", "value": {"choices": ["cat"]}}
    (tmp_path / "e.json").write_text(json.dumps([task | {"annotations": [{"result": [choice]}]}]))
    config = DataConfig(extra_labels=str(tmp_path / "e.json"))
    assert torch.equal(add_labels(table, config).splits, after.splits)
    (tmp_path / "e.json").write_text(json.dumps([task | {"annotations": []}]))
    with pytest.raises(UserError, match="holds no label yet; answer some of its tasks"):
        add_labels(table, config)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1.png,cow"], "1.png: cow: this run has no such class; for a new class"),
        (["1.png,cats"], "did you mean cat?"),
        (["5.png,cat"], r"5.png: is no image that this run knows.*; did you mean .\.png"),
        (["copy.png,cat"], "copy.png: is no image that this run knows, or a copy of one"),
        (["zzz,cat"], "zzz: is no image that this run knows.*; remove the row"),
        (["t.png,cat"], "t.png: is in T, of which nothing is learned"),
        (["v.png,dog"], "v.png: is in V"),
        (["1.png,cat", "1.png,dog"], "1.png: .*more.csv calls this image cat and dog"),
        (["hidden.png,cat"], "hidden.png: cat: this image is labeled dog already"),
        (["1.png,"], "holds no label yet; fill in the column label"),
        (["1.png,cat,3"], "row 1 .* has 3 cells"),
    ],
)
def test_mistakes(table: SplitTable, tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        add_labels(table, settings(tmp_path, *lines))
    assert caught.value.key == "data.extra_labels"
