"""Tables that all ranks of a node share: an Arrow file that each of them maps into its memory.

The file lies in the folder for temporary files and is named by its content, so that whoever comes
first writes it, and a run directory may be read-only. Where that cannot be, and for small tables,
each process has the rows in its own memory.
"""

import atexit
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from operator import index
from pathlib import Path
from typing import Any, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

LEAST_ROWS = 50_000
"""Smaller tables are not worth a file: 10 MB."""

BATCH_ROWS = 1 << 16
"""Rows that are in this process's memory at a time while the file is written."""

WRITE_SECONDS = 600.0
"""How long another process may take to write the file."""

V = TypeVar("V", str, int)


class Column(Sequence[V]):
    """A column of an Arrow table as a sequence: what is not asked for stays in the file."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, place: int) -> V: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[V, ...]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            assert step == 1, "columns are cut into contiguous parts"
            return tuple(self.values.slice(start, max(stop - start, 0)).to_pylist())
        return self.values[index(place)].as_py()

    def __iter__(self) -> Iterator[V]:
        for start in range(0, len(self), BATCH_ROWS):
            yield from self.values.slice(start, BATCH_ROWS).to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of what compares by its values

    def count(self, value: Any) -> int:
        """How often a value occurs."""
        return pc.sum(pc.equal(self.values, value)).as_py() or 0

    def unique(self) -> set[V]:
        """The values that occur."""
        return set(self.values.unique().to_pylist())


def share(content: bytes, num_rows: int, read: Callable[[], Iterator[pa.RecordBatch]]) -> pa.Table:
    """The rows of `read`, mapped from a file that other processes of this node map as well.

    content: what names the file. num_rows: of the table.
    """
    path = None if num_rows < LEAST_ROWS else _path_of(content)
    if path is not None:
        try:
            with FileLock(path.with_suffix(".lock"), timeout=WRITE_SECONDS):
                if not path.is_file():
                    _write(path, read())
                return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, Timeout):  # a full disk, say: the rows are what counts
            pass
    return pa.Table.from_batches(read())


def _path_of(content: bytes) -> Path | None:
    """Where a table lies; None where no folder is this user's alone."""
    folder = Path(tempfile.gettempdir()) / f"cotrain_dist-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # The folder above is everybody's: someone else may have made one of this name.
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_own or found.st_mode & 0o077:
        return None
    return folder / f"{hashlib.sha256(content).hexdigest()}.arrow"


def _write(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        first = next(batches)
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, first.schema) as out:
            out.write_batch(first)
            for batch in batches:
                out.write_batch(batch)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    # Who maps it by then keeps it; who comes later writes it anew.
    atexit.register(path.unlink, missing_ok=True)
