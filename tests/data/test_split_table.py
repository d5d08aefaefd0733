"""splits.parquet: what is stored, what is read back, and files that are no such table."""

import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cotrain_dist.config import DataConfig
from cotrain_dist.data import splits as splits_module
from cotrain_dist.data.sources import Listing, list_images
from cotrain_dist.data.splits import (
    SplitTable,
    draw_split_table,
    load_split_table,
    mark_audit,
    parse_split_table,
)
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split

LISTING = Listing(
    sources=("imagefolder",) * 5,
    paths=("zebra/0.png", "zebra/1.png", "10/é.png", "Ant/deep/0.png", "9/0.png"),
    class_ids=torch.tensor([0, 0, 1, 2, 3]),
    class_names=("zebra", "10", "Ant", "9"),  # in no sorted order
    sizes=(1, 2, 3, 4, 5),
    digests=tuple(f"{i:064x}" for i in range(5)),
)
TABLE = SplitTable(LISTING, torch.tensor([0, 1, 2, 3, 4]))


def write(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


def test_stored_columns() -> None:
    table = TABLE.to_arrow()
    assert table.column_names == ["source", "path", "class", "split", "size", "sha256"]
    assert table.slice(2, 1).to_pylist() == [
        {
            "source": "imagefolder",
            "path": "10/é.png",
            "class": "10",
            "split": "L_A",
            "size": 3,
            "sha256": "0" * 63 + "2",
        }
    ]


@pytest.mark.parametrize("chunk_rows", [2, 1_000_000])
def test_the_file_is_that_of_pyarrow_s_own_columns(
    chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns are made from buffers; a class may be unknown, a text empty or not ASCII."""
    monkeypatch.setattr(splits_module, "CHUNK_ROWS", chunk_rows)
    listing = replace(
        LISTING, class_ids=torch.tensor([0, -1, 1, -1, 3]), class_names=("é", "", *"ab")
    )
    made = SplitTable(listing, TABLE.splits).to_arrow()
    columns = {
        "source": ["imagefolder"] * 5,
        "path": list(LISTING.paths),
        "class": ["é", None, "", None, "b"],
        "split": [Split(number).name for number in range(5)],
        "size": [1, 2, 3, 4, 5],
        "sha256": list(LISTING.digests),
    }
    expected = pa.table(columns).replace_schema_metadata(made.schema.metadata)
    assert made.schema == expected.schema
    assert made.to_pylist() == expected.to_pylist()
    if chunk_rows > 5:
        contents = []
        for table in (made, expected):
            pq.write_table(table, sink := pa.BufferOutputStream())
            contents.append(sink.getvalue().to_pybytes())
        assert contents[0] == contents[1]


def test_round_trip_keeps_everything() -> None:
    content = TABLE.to_parquet()
    found = parse_split_table(content)
    assert torch.equal(found.splits, TABLE.splits)
    assert torch.equal(found.class_ids, LISTING.class_ids)
    assert found.splits.dtype == found.class_ids.dtype == torch.int64
    assert found.class_names == ("zebra", "10", "Ant", "9")
    for name in ("sources", "paths", "sizes", "digests"):
        assert getattr(found.listing, name) == getattr(LISTING, name)
    assert found.digest == TABLE.digest
    assert found.to_parquet() == content


def test_sample_ids_of_a_group_ascend() -> None:
    table = replace(TABLE, splits=torch.tensor([4, 0, 4, 2, 4]))
    assert table.sample_ids(Split.U).tolist() == [0, 2, 4]
    assert table.sample_ids(Split.T).tolist() == [1]
    assert table.sample_ids(Split.V).shape == (0,)


@pytest.mark.parametrize(
    "other",
    [
        replace(TABLE, splits=torch.tensor([0, 1, 2, 3, 3])),
        replace(TABLE, splits=torch.tensor([1, 0, 2, 3, 4])),
        replace(TABLE, listing=replace(LISTING, digests=("f" * 64, *LISTING.digests[1:]))),
        replace(TABLE, listing=replace(LISTING, class_ids=torch.tensor([0, 1, 1, 2, 3]))),
        replace(TABLE, listing=replace(LISTING, paths=("zebra/2.png", *LISTING.paths[1:]))),
    ],
    ids=["one group", "two groups swapped", "content", "class", "path"],
)
def test_digest_changes_with_any_row(other: SplitTable) -> None:
    assert other.digest != TABLE.digest


def test_groups_are_drawn_by_the_configured_fractions() -> None:
    config = DataConfig(test_per_class=7, labeled_per_class=2, validation_fraction=0.1)
    listing = list_images(config)
    table = draw_split_table(listing, config, seed=1)
    for class_id, num_images in enumerate(torch.bincount(listing.class_ids).tolist()):
        num_v = round(0.1 * num_images)
        counts = torch.bincount(table.splits[listing.class_ids == class_id], minlength=5)
        assert counts.tolist() == [7, num_v, 2, 2, num_images - 11 - num_v]
    assert table.digest == draw_split_table(listing, config, seed=1).digest
    assert table.digest != draw_split_table(listing, config, seed=2).digest


def test_marks_are_a_column_and_part_of_the_digest() -> None:
    table = replace(TABLE, splits=torch.tensor([4, 0, 4, 2, 4]))
    marked = mark_audit(table, 2, seed=0)
    assert marked.is_audit is not None
    content = marked.to_parquet()
    shown = pq.read_table(pa.BufferReader(content)).column("is_audit").to_pylist()
    assert shown == marked.is_audit.tolist()
    found = parse_split_table(content)
    assert found.is_audit is not None
    assert torch.equal(found.is_audit, marked.is_audit)
    assert found.digest == marked.digest != table.digest
    assert sorted([*found.unmarked_pool_ids.tolist(), *found.is_audit.nonzero().flatten()]) == [
        *(0, 2, 4)
    ]
    assert mark_audit(marked, 0, seed=0).to_parquet() == table.to_parquet()


@pytest.mark.parametrize("by_directory", [True, False])
def test_loads_from_a_run_directory_or_a_file(tmp_path: Path, by_directory: bool) -> None:
    path = tmp_path / "splits.parquet"
    path.write_bytes(TABLE.to_parquet())
    assert load_split_table(tmp_path if by_directory else path).digest == TABLE.digest


def test_load_of_no_file(tmp_path: Path) -> None:
    absent = tmp_path / "absent.parquet"
    for path, named in ((absent, absent), (tmp_path, tmp_path / "splits.parquet")):
        with pytest.raises(UserError, match=re.escape(f"data.splits_from: {named}: is no file")):
            load_split_table(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"source,path,class\n", TABLE.to_parquet()[:-100], b"PAR1" + b"\xff" * 200 + b"PAR1"],
    ids=["empty", "text", "cut short", "nonsense"],
)
def test_load_of_a_file_that_is_not_parquet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "splits.parquet"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=re.escape(f"data.splits_from: {path}: is no table of splits")
    ):
        load_split_table(path)


def test_load_of_a_damaged_file(tmp_path: Path) -> None:
    content = bytearray(TABLE.to_parquet())
    length = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - length  # of the footer
    content[start : start + 20] = b"\xff" * 20
    path = tmp_path / "splits.parquet"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=re.escape(f"data.splits_from: {path}: is no table of splits")
    ):
        load_split_table(path)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"image": ["a"], "label": [1]}),
        TABLE.to_arrow().drop_columns(["split"]),
        TABLE.to_arrow().replace_schema_metadata(None),
        TABLE.to_arrow().replace_schema_metadata({"class_names": "zebra\nAnt"}),
        TABLE.to_arrow().set_column(3, "split", pa.array(["train"] * 5)),
        TABLE.to_arrow().slice(0, 0),
    ],
    ids=["other columns", "no group", "no names", "other names", "other groups", "no rows"],
)
def test_load_of_a_table_of_something_else(tmp_path: Path, table: pa.Table) -> None:
    path = write(tmp_path / "other.parquet", table)
    with pytest.raises(
        UserError, match=re.escape(f"data.splits_from: {path}: is no table of splits")
    ):
        load_split_table(path)
