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

from cotrain_dist.errors import UserError
from cotrain_dist.types import Prediction

COLUMNS = [field.name for field in fields(Prediction)]


class PredictionWriter(Protocol):
    """Takes blocks of predictions until it is closed."""

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Append a block."""

    def close(self) -> None:
        """Finish the file."""


class _TextWriter:
    """CSV or JSON lines."""

    def __init__(self, file: TextIO, as_json: bool) -> None:
        self._file, self._as_json = file, as_json
        self._csv = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not as_json:
            self._csv.writeheader()

    def write(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            if self._as_json:
                self._file.write(json.dumps(asdict(prediction)) + "\n")
            else:
                self._csv.writerow(asdict(prediction))

    def close(self) -> None:
        if self._file is not sys.stdout:
            self._file.close()


class _ParquetWriter:
    """One row group per block."""

    def __init__(self, path: Path) -> None:
        # Stated and not inferred: a block without images must have the schema of the others.
        types = {str: pa.string(), float: pa.float64()}
        self._schema = pa.schema([(f.name, types[f.type]) for f in fields(Prediction)])  # type: ignore[index]
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(self, predictions: Sequence[Prediction]) -> None:
        rows = [asdict(prediction) for prediction in predictions]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def open_writer(path: Path | None) -> PredictionWriter:
    """A writer by the ending of `path`; CSV to the console for None. Replaces no file."""
    if path is None:
        return _TextWriter(sys.stdout, as_json=False)
    if path.exists():
        raise UserError("--output", path, "exists already", "name another file, or delete it")
    check_folder(path)
    if path.suffix == ".parquet":
        return _ParquetWriter(path)
    if path.suffix in {".csv", ".jsonl"}:
        return _TextWriter(path.open("w", newline=""), as_json=path.suffix == ".jsonl")
    raise UserError("--output", path, "has no known ending", "end it in .csv, .jsonl or .parquet")


def check_folder(path: Path) -> None:
    """Raise UserError where the folder that `path` is to lie in is missing."""
    if not path.parent.is_dir():
        raise UserError("--output", path, "its folder does not exist", "make the folder first")
