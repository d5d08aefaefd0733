"""A table of images that a person labels, one answer at a time (`annotate`)."""

import csv
import io
import threading
from collections.abc import Sequence, Set
from pathlib import Path

from cotrain_dist.config import DataConfig
from cotrain_dist.data.same_as import leaders_of
from cotrain_dist.data.sources.files import read_rows
from cotrain_dist.printable import from_cell, to_cell
from cotrain_dist.store import atomic


class ChangedError(Exception):
    """Another program has written the table since it was read."""


class Answers:
    """The rows of a table as `queue` writes it; an answer is on the disk once `put` returns.

    Other columns, and the order of rows and columns, stay as they are. Rows that wait for another
    one (`same_as`) take its answer and are not asked about, unless they have an own one at first.
    """

    def __init__(self, file: Path, config: DataConfig) -> None:
        """Raises UserError where the table cannot be read, or names no columns of the settings."""
        self.file = file
        self._config = config
        self._path_column, self._label_column = config.path_column, config.label_column
        self._lock = threading.Lock()
        self._written = file.read_bytes() if file.is_file() else b""
        self._rows = read_rows(file, config, "FILE")
        self._places = self._served(set())

    def _served(self, alone: Set[str]) -> dict[int, list[int]]:
        """By each row that is asked about: the rows that its answer goes to, itself first.

        alone: paths that are asked about whatever they wait for.
        """
        served = {place: [place] for place in range(len(self._rows))}
        for place, leader in leaders_of(self._rows, self._config).items():
            row, its = self._rows[place], self._rows[leader][self._label_column].strip()
            is_own = row[self._label_column].strip() not in ("", its)
            if not is_own and from_cell(row[self._path_column]) not in alone:
                served[leader] += served.pop(place)
        return served

    @property
    def paths(self) -> list[str]:
        """Of the image of each row that is asked about, as the table has it."""
        return [from_cell(self._rows[place][self._path_column]) for place in self._places]

    @property
    def labels(self) -> list[str]:
        """Of each row that is asked about; empty without an answer."""
        return [from_cell(self._rows[place][self._label_column].strip()) for place in self._places]

    @property
    def num_same(self) -> list[int]:
        """How many further images each row that is asked about stands for."""
        return [len(places) - 1 for places in self._places.values()]

    def put(self, row: int, label: str) -> None:
        """Write one answer, for all images that the row stands for; an empty one takes it back.

        row: place in `paths`. Raises ChangedError, and writes nothing.
        """
        with self._lock:
            if self.file.read_bytes() != self._written:
                raise ChangedError
            places = list(self._places.values())[row]
            before = [self._rows[place][self._label_column] for place in places]
            self._set(places, [to_cell(label)] * len(places))
            content = self._text().encode()
            try:
                atomic.write_bytes(self.file, content)
            except OSError:  # a full disk: what is shown is what stands there
                self._set(places, before)
                raise
            self._written = content

    def add(self, paths: Sequence[str]) -> None:
        """Write a row without an answer for each path that has none, at the end.

        Each of them is asked about from now on, also where it waits for another one.
        """
        known = {from_cell(row[self._path_column]) for row in self._rows}
        empty = dict.fromkeys(self._rows[0], "")
        with self._lock:
            self._rows += [
                empty | {self._path_column: to_cell(path)}
                for path in dict.fromkeys(paths)
                if path not in known
            ]
            self._written = self._text().encode()
            atomic.write_bytes(self.file, self._written)
            self._places = self._served(set(paths))

    def _set(self, places: Sequence[int], cells: Sequence[str]) -> None:
        for place, cell in zip(places, cells, strict=True):
            self._rows[place][self._label_column] = cell

    def _text(self) -> str:
        cells = [list(self._rows[0]), *(list(row.values()) for row in self._rows)]
        # A carriage return in a name would else end its row.
        is_odd = any("\r" in cell for row in cells for cell in row)
        text = io.StringIO()
        plain = csv.writer(text, lineterminator="\n")
        quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        (quoted if is_odd else plain).writerows(cells)
        return text.getvalue()
