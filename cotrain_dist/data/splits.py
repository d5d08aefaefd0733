"""The splits of a run on disk: one table, drawn once, read by every later command on the run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cotrain_dist.config import DataConfig
from cotrain_dist.config.data import fraction_of_labeled, fraction_of_test
from cotrain_dist.data.bad_images import in_order, require_kept
from cotrain_dist.data.copies import leave_out_copies
from cotrain_dist.data.sources.listing import TEST, UNKNOWN, UNLABELED, BadImage, Listing
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Fractions, Split, draw_marked, draw_splits
from cotrain_dist.store.mapped import BATCH_ROWS, Column, share
from cotrain_dist.store.run_directory import splits_file
from cotrain_dist.types import Role, TrainingSet

BAD_IMAGES = b"bad_images"
"""Key of the schema's metadata where some images are of no use."""
COLUMNS = ("source", "path", "class", "split", "size", "sha256")
AUDIT_COLUMN = "is_audit"
"""Missing where no image is marked."""
EARLIER_COLUMN = "group"
"""What the column `split` was called in runs of version 0.1."""
CHUNK_ROWS = 1_000_000
"""A chunk of a text column holds at most 2 GiB."""


@dataclass(frozen=True)
class SplitTable:
    """Every image of a run, its class and its split; a sample_id is a row."""

    listing: Listing
    splits: Tensor
    """[N] int64 of `Split` values."""
    is_audit: Tensor | None = None
    """[N] bool: images of U whose labels are kept for the promise of `labels`; None without any."""

    @property
    def class_ids(self) -> Tensor:
        """[N] int64: the true class of each sample_id."""
        return self.listing.class_ids

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id."""
        return self.listing.class_names

    def sample_ids(self, split: Split) -> Tensor:
        """The ids of a split, [n] int64 in ascending order."""
        return (self.splits == split).nonzero().flatten()

    @property
    def unmarked_pool_ids(self) -> Tensor:
        """Those of U whose labels may be asked for and learned, [n] int64 in ascending order."""
        ids = self.sample_ids(Split.U)
        return ids if self.is_audit is None else ids[~self.is_audit[ids]]

    @property
    def usable_ids(self) -> Tensor | None:
        """[n] int64, the sample_ids of images that can be read; None where all can."""
        bad = self.listing.bad_ids
        if not bad:
            return None
        return torch.from_numpy(np.delete(np.arange(len(self.splits)), bad))

    def labeled(self, role: Role, labels: str) -> TrainingSet:
        """L of a role: its own split, or with `labels` shared L_A and L_B; in ascending order."""
        own = Split.L_A if role is Role.A else Split.L_B
        splits = [Split.L_A, Split.L_B] if labels == "shared" else [own]
        # Sorted, so that L has one order however it is put together: the keyed order is one of
        # rows.
        sample_ids = torch.cat([self.sample_ids(split) for split in splits]).sort().values
        is_pseudo = torch.zeros(len(sample_ids), dtype=torch.bool)
        # The one place where true labels become what a model learns; those of U never do.
        return TrainingSet(sample_ids, self.class_ids[sample_ids], is_pseudo)

    def to_arrow(self, rows: slice = slice(None)) -> pa.Table:
        """As stored: one row per sample_id, the class names in order in the schema's metadata."""
        names, listing = self.class_names, self.listing
        columns = {
            "source": _text_column(listing.sources[rows]),
            "path": _text_column(listing.paths[rows]),
            "class": _text_column(
                [None if i == UNKNOWN else names[i] for i in self.class_ids[rows].tolist()]
            ),
            "split": _text_column([Split(split).name for split in self.splits[rows].tolist()]),
            "size": _number_column(listing.sizes[rows]),
            "sha256": _text_column(listing.digests[rows]),
        }
        if self.is_audit is not None:
            columns[AUDIT_COLUMN] = _flag_column(self.is_audit[rows])
        about = {b"class_names": json.dumps(names)}
        if listing.bad:
            about[BAD_IMAGES] = json.dumps([one.to_json() for one in listing.bad])
        return pa.table(columns).replace_schema_metadata(about)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all rows: what a checkpoint must have been made from."""
        # Of the rows and not of the file: Parquet files name the version that has written them.
        digest = hashlib.sha256()
        for start in range(0, len(self.splits), BATCH_ROWS):
            rows = self.to_arrow(slice(start, start + BATCH_ROWS)).to_pylist()
            digest.update(("\n" if start else "").encode() + "\n".join(map(str, rows)).encode())
        return digest.hexdigest()

    def to_parquet(self) -> bytes:
        """The content of splits.parquet."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.to_arrow(), sink)
        return bytes(sink.getvalue().to_pybytes())


# Arrays of pyarrow made from their buffers: `pa.array`, `pa.table` of lists and `pq.read_table`
# import pandas where it is installed, a third of a second at each start.
def _text_column(values: Sequence[str | None]) -> pa.ChunkedArray:
    chunks = [values[start : start + CHUNK_ROWS] for start in range(0, len(values), CHUNK_ROWS)]
    return pa.chunked_array([_text_array(chunk) for chunk in chunks], pa.string())


def _text_array(values: Sequence[str | None]) -> pa.Array:
    encoded = [(value or "").encode() for value in values]
    ends = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(text) for text in encoded], out=ends[1:])
    is_there = np.packbits([value is not None for value in values], bitorder="little")
    buffers = [pa.py_buffer(is_there), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _number_column(values: Sequence[int]) -> pa.Array:
    buffers = [None, pa.py_buffer(np.array(values, dtype=np.int64))]
    return pa.Array.from_buffers(pa.int64(), len(values), buffers)


def _flag_column(values: Tensor) -> pa.Array:
    packed = np.packbits(values.numpy(), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed)])


def fractions_of(config: DataConfig, *, has_unlabeled: bool) -> Fractions:
    """The configured fractions of a class; has_unlabeled: whether other images fill U."""
    return Fractions(
        test=fraction_of_test(config, has_unlabeled=has_unlabeled),
        validation=config.validation_fraction,
        labeled=fraction_of_labeled(config, has_unlabeled=has_unlabeled),
    )


def draw_split_table(listing: Listing, config: DataConfig, seed: int) -> SplitTable:
    """Draw the splits of a listing, then leave copies out.

    As if images of no use were not there: those are OUT before the draw. Raises UserError where a
    class is too small.
    """
    sources = np.array(listing.sources)
    # Images without a label are in no draw and stay here.
    splits = torch.full((len(sources),), Split.U, dtype=torch.int64)
    splits[torch.from_numpy(sources == TEST)] = Split.T
    own = torch.from_numpy((sources != TEST) & (sources != UNLABELED))
    drawn = own & (listing.class_ids != UNKNOWN)
    has_others = bool((own & ~drawn).any()) or UNLABELED in listing.sources  # they fill U
    given = splits.masked_fill(drawn, Split.OUT)
    splits[listing.bad_ids] = Split.OUT
    require_kept(listing, given, splits.masked_fill(drawn, Split.OUT))
    labeled = drawn & (splits != Split.OUT)
    fractions = fractions_of(config, has_unlabeled=has_others)
    splits[labeled] = draw_splits(
        listing.class_ids[labeled], listing.class_names, fractions, seed, pool_needed=not has_others
    )
    # After the draw: one of fewer images would be another draw than that of earlier versions.
    return SplitTable(listing, leave_out_copies(listing, splits))


def mark_audit(table: SplitTable, num_images: int, seed: int) -> SplitTable:
    """The splits with so many images of U marked, whatever was marked before.

    Raises UserError where U is too small.
    """
    if not num_images:
        return replace(table, is_audit=None)
    is_audit = torch.zeros(len(table.splits), dtype=torch.bool)
    is_audit[draw_marked(table.sample_ids(Split.U), num_images, seed)] = True
    return replace(table, is_audit=is_audit)


def without_bad(table: SplitTable, bad: Sequence[BadImage]) -> SplitTable:
    """Splits as they are, with OUT for images of no use, and no image marked.

    Raises UserError where that leaves a class without images in a split.
    """
    listing = replace(table.listing, bad=in_order(bad))
    splits = table.splits.clone()
    splits[listing.bad_ids] = Split.OUT
    require_kept(listing, table.splits, splits)
    return SplitTable(listing, splits)


def load_split_table(path: Path) -> SplitTable:
    """Read the splits of a run; `path` is a run directory or its splits.parquet."""
    path = splits_file(path) if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            "data.splits_from", path, "is no file", "name a run directory or its splits.parquet"
        )
    try:
        return parse_split_table(path.read_bytes())
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            "data.splits_from",
            path,
            f"is no table of splits ({str(error).splitlines()[0]})",
            "name a splits.parquet that a run has written",
        ) from error


def parse_split_table(content: bytes) -> SplitTable:
    """The table that `to_parquet` wrote. Rows that only readers need are shared by all ranks."""
    file = pq.ParquetFile(pa.BufferReader(content))
    if not file.metadata.num_rows:
        raise ValueError("it has no rows")
    is_earlier = EARLIER_COLUMN in file.schema_arrow.names
    # Not read off the rows: ids follow the order in which the source named its classes.
    names = tuple(json.loads(file.schema_arrow.metadata[b"class_names"]))
    # Images without a label are rows like all others: a sample_id is a row.
    # UNKNOWN is the place before the first name.
    class_ids = _places_in([None, *names], _column(file, "class")) + UNKNOWN
    splits = _places_in(
        [split.name for split in Split], _column(file, EARLIER_COLUMN if is_earlier else "split")
    )
    of_listing = [name for name in COLUMNS if name not in ("class", "split")]
    missing = set(of_listing) - set(file.schema_arrow.names)
    if missing:
        raise KeyError(f"no column {min(missing)}")
    rows = share(
        content,
        file.metadata.num_rows,
        lambda: file.iter_batches(BATCH_ROWS, columns=of_listing),
    )
    rows.validate(full=True)  # text that is no UTF-8 would show where it is first used
    _check_paths(rows)
    listing = Listing(
        sources=Column(rows["source"]),
        paths=Column(rows["path"]),
        class_ids=class_ids,
        class_names=names,
        sizes=Column(rows["size"]),
        digests=Column(rows["sha256"]),
        bad=_bad_images_in(file.schema_arrow.metadata),
    )
    values, is_audit = torch.tensor([split.value for split in Split]), None
    if AUDIT_COLUMN in file.schema_arrow.names:
        flags = _column(file, AUDIT_COLUMN).cast(pa.string())
        is_audit = _places_in(["false", "true"], flags).bool()
    return SplitTable(listing, values[splits], is_audit)


def _bad_images_in(metadata: Mapping[bytes, bytes]) -> tuple[BadImage, ...]:
    return tuple(map(BadImage.from_json, json.loads(metadata.get(BAD_IMAGES, b"[]"))))


def _check_paths(rows: pa.Table) -> None:
    """Raise ValueError where a path leads out of the folder that its source is listed from.

    A table of the user's own (`csv`) may name files anywhere.
    """
    leads_out = pc.match_substring_regex(rows["path"], r"^/|(^|/)\.\.(/|$)|\x00")
    # Compared in Python: a value of Python's in a comparison of pyarrow's loads pandas.
    if set(rows["source"].filter(leads_out).unique().to_pylist()) - {"csv"}:
        raise ValueError("a path leads out of the folder of its images")


def _column(file: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    return file.read(columns=[name]).column(name)


def _places_in(names: Sequence[str | None], column: pa.ChunkedArray) -> torch.Tensor:
    """Where each value stands in `names`, [N] int64; raises KeyError for one that does not."""
    if pa.types.is_null(column.type):  # no image has a label
        column = column.cast(pa.string())
    found = pc.index_in(column, value_set=_text_array(names).cast(column.type))
    if found.null_count:
        unknown = set(column.unique().to_pylist()) - set(names)
        raise KeyError(f"an unknown value, {min(map(str, unknown))}")
    # Of the buffers themselves: `to_numpy` imports pandas as well.
    parts = [
        np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk)]
        for chunk in found.chunks
        if len(chunk)
    ]
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
