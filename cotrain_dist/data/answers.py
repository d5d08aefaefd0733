"""A table of images that a person labels, one answer at a time (`annotate`)."""

import csv
import io
import threading
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources.files import read_rows
from cotrain_dist.printable import from_cell, to_cell
from cotrain_dist.store import atomic


class ChangedError(Exception):
    """Another program has written the table since it was read."""


class Answers:
    """The rows of a table as `queue` writes it; an answer is on the disk once `put` returns.

    Other columns, and the order of rows and columns, stay as they are.
    """

    def __init__(self, file: Path, config: DataConfig) -> None:
        """Raises UserError where the table cannot be read, or names no columns of the settings."""
        self.file = file
        self._path_column, self._label_column = config.path_column, config.label_column
        self._lock = threading.Lock()
        self._written = file.read_bytes() if file.is_file() else b""
        self._rows = read_rows(file, config, "FILE")

    @property
    def paths(self) -> list[str]:
        """Of each row's image, as the table has it."""
        return [from_cell(row[self._path_column]) for row in self._rows]

    @property
    def labels(self) -> list[str]:
        """Of each row; empty without an answer."""
        return [from_cell(row[self._label_column].strip()) for row in self._rows]

    def put(self, row: int, label: str) -> None:
        """Write one answer; an empty one takes it back. Raises ChangedError, and writes nothing."""
        with self._lock:
            if self.file.read_bytes() != self._written:
                raise ChangedError
            before, self._rows[row][self._label_column] = (
                self._rows[row][self._label_column],
                to_cell(label),
            )
            content = self._text().encode()
            try:
                atomic.write_bytes(self.file, content)
            except OSError:  # a full disk: what is shown is what stands there
                self._rows[row][self._label_column] = before
                raise
            self._written = content

    def add(self, paths: Sequence[str]) -> None:
        """Write a row without an answer for each path that has none, at the end."""
        known = set(self.paths)
        empty = dict.fromkeys(self._rows[0], "")
        with self._lock:
            self._rows += [
                empty | {self._path_column: to_cell(path)}
                for path in dict.fromkeys(paths)
                if path not in known
            ]
            self._written = self._text().encode()
            atomic.write_bytes(self.file, self._written)

    def _text(self) -> str:
        cells = [list(self._rows[0]), *(list(row.values()) for row in self._rows)]
        # A carriage return in a name would else end its row.
        is_odd = any("\r" in cell for row in cells for cell in row)
        text = io.StringIO()
        plain = csv.writer(text, lineterminator="\n")
        quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        (quoted if is_odd else plain).writerows(cells)
        return text.getvalue()
