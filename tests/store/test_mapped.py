"""Tables that ranks share: rows as they were, one file for all, and memory where there is none."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from ranks import run_ranks

from cotrain_dist.store import mapped
from cotrain_dist.store.mapped import Column, share

ROWS = 1000


def _batches() -> Any:
    for start in range(0, ROWS, 300):
        values = range(start, min(start + 300, ROWS))
        yield pa.record_batch({"path": [f"p/{i}" for i in values], "size": list(values)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mapped, "LEAST_ROWS", 10)
    return tmp_path / f"cotrain_dist-{os.getuid()}"


def _check(table: pa.Table) -> None:
    column: Column[str] = Column(table["path"])
    expected = tuple(f"p/{i}" for i in range(ROWS))
    assert column == expected
    assert expected == column
    assert list(column) == list(expected)
    assert (column[0], column[299], column[300], column[-1]) == ("p/0", "p/299", "p/300", "p/999")
    assert column[torch.tensor(300)] == "p/300"  # what tensors and arrays of places give
    assert column[298:302] == expected[298:302]
    assert column[:0] == column[5:3] == ()
    assert column[:] == expected
    assert column != expected[1:]
    assert column != (*expected[1:], "p/0")
    with pytest.raises(IndexError):
        column[ROWS]
    assert (column.count("p/7"), column.count("none"), "p/8" in column) == (1, 0, True)
    assert Column(table["size"]).unique() == set(range(ROWS))


def test_rows_come_back_from_a_mapped_file(folder: Path) -> None:
    before = pa.total_allocated_bytes()
    table = share(b"content", ROWS, _batches)
    assert pa.total_allocated_bytes() - before < 1000  # nothing of it is in this process's memory
    _check(table)
    (file,) = folder.glob("*.arrow")
    # Written once; and what is mapped outlives the file.
    written = file.stat().st_ino
    again = share(b"content", ROWS, lambda: pytest.fail("read once more"))
    assert file.stat().st_ino == written
    file.unlink()
    _check(table)
    _check(again)
    assert not list(folder.glob("*.tmp"))


def test_other_content_is_another_file(folder: Path) -> None:
    share(b"content", ROWS, _batches)
    share(b"other", ROWS, _batches)
    assert len(list(folder.glob("*.arrow"))) == 2


def test_small_tables_need_no_file(folder: Path) -> None:
    _check(share(b"content", 9, _batches))
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["file", "open to others", "link"])
def test_a_folder_that_is_not_this_users_alone_is_not_used(folder: Path, kind: str) -> None:
    match kind:
        case "file":
            folder.write_text("")
        case "open to others":
            folder.mkdir()
            folder.chmod(0o777)
        case "link":
            (folder.parent / "other").mkdir(mode=0o700)
            folder.symlink_to(folder.parent / "other")
    _check(share(b"content", ROWS, _batches))
    assert not list(folder.parent.rglob("*.arrow"))


def test_a_write_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*what: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_file", fail)
    _check(share(b"content", ROWS, _batches))
    assert not [*folder.glob("*.arrow"), *folder.glob("*.tmp")]


def _inode(folder: str) -> int:
    """A body: the file that this rank maps."""
    tempdir, least = tempfile.tempdir, mapped.LEAST_ROWS
    tempfile.tempdir, mapped.LEAST_ROWS = folder, 10
    try:
        table = share(b"content", ROWS, _batches)
    finally:
        tempfile.tempdir, mapped.LEAST_ROWS = tempdir, least
    _check(table)
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(int(line.split()[4]) for line in maps if line.endswith(".arrow"))


@pytest.mark.slow
def test_ranks_map_one_file(tmp_path: Path) -> None:
    assert len(set(run_ranks(_inode, 3, tmp_path, str(tmp_path)))) == 1
