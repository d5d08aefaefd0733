"""Predictions as CSV, JSON lines or Parquet, written block by block."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from cotrain_dist.config.places import check_output_file
from cotrain_dist.printable import printable, to_cell
from cotrain_dist.types import Prediction


class PredictionWriter(Protocol):
    """Takes blocks of predictions until it is closed."""

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Append a block."""

    def close(self) -> None:
        """Finish the file."""


class _TextWriter:
    """CSV or JSON lines."""

    def __init__(self, file: TextIO, as_json: bool, row: type[Prediction]) -> None:
        self._file, self._as_json = file, as_json
        columns = [field.name for field in fields(row)]
        self._csv = csv.DictWriter(file, columns, lineterminator="\n")
        self._quoted = csv.DictWriter(file, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if not as_json:
            self._csv.writeheader()

    def write(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            if self._as_json:
                self._file.write(json.dumps(asdict(prediction)) + "\n")
            else:
                cells = {name: self._cell(value) for name, value in asdict(prediction).items()}
                # Else a carriage return in a name would end its row.
                has_return = any("\r" in cell for cell in cells.values() if isinstance(cell, str))
                (self._quoted if has_return else self._csv).writerow(cells)

    def _cell(self, value: object) -> object:
        # On a terminal it is for people, in a file or a pipe for programs: there every name must
        # come back as it is.
        if not isinstance(value, str):
            return value
        return to_cell(printable(value) if self._file.isatty() else value)

    def close(self) -> None:
        if self._file is not sys.stdout:
            self._file.close()


class _ParquetWriter:
    """One row group per block."""

    def __init__(self, path: Path, row: type[Prediction]) -> None:
        # Stated and not inferred: a block without images must have the schema of the others.
        types = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
        types[float | None] = pa.float64()  # type: ignore[index]
        self._schema = pa.schema([(f.name, types[f.type]) for f in fields(row)])  # type: ignore[index]
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(self, predictions: Sequence[Prediction]) -> None:
        rows = [asdict(prediction) for prediction in predictions]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def open_writer(
    path: Path | None, endings: Sequence[str], row: type[Prediction] = Prediction
) -> PredictionWriter:
    """A writer by the ending of `path`; CSV to the console for None. Replaces no file.

    endings: `.parquet`, and those of text; anything else is refused. row: what is written, whose
    fields are the columns.
    """
    if path is None:
        return _TextWriter(sys.stdout, False, row)
    check_output_file(path, endings, replaces=False)
    if path.suffix == ".parquet":
        return _ParquetWriter(path, row)
    return _TextWriter(path.open("w", newline="", encoding="utf-8"), path.suffix == ".jsonl", row)
