"""Data sets of Hugging Face: by name, as a folder of Parquet files, or as saved to disk.

Rows stay on disk, in the cache of `datasets`. No data set's own code runs: `datasets` has dropped
that.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources.decode import ImageError, decode, unreadable
from cotrain_dist.data.sources.folders import read_regular
from cotrain_dist.data.sources.listing import (
    Listing,
    absent_content,
    changed,
    check_number,
    content_of,
    listing_of,
)
from cotrain_dist.errors import UserError

SPLITS = ("train", "test", "val", "dev", "eval", "unlabeled", "extra")
"""Starts of file names that say of which split a Parquet file is."""


def list_rows(config: DataConfig) -> Listing:
    """All rows of the split; rows without a label (null or -1) are unlabeled."""
    rows = _open(config)
    encoded = _encoded(rows, config)
    labels, names = _labels(rows, config)
    paths = [f"{index:08d}" for index in range(len(rows))]
    contents = [_content_of(row, path, config) for row, path in zip(encoded, paths, strict=True)]
    return listing_of("hub", paths, labels, contents, names)


def row_reader(config: DataConfig, listing: Listing) -> Callable[[str], Image.Image]:
    """Reads the image of a row by its number; raises UserError where it is not as listed."""
    rows = _open(config)
    check_number(len(rows), str(config.name), listing)
    encoded = _encoded(rows, config)

    def read(path: str) -> Image.Image:
        content = _bytes_of(encoded[int(path)], path, config)
        # Rows have no file whose size could be checked at the start, so each is checked when it is
        # read.
        if content_of(content)[1] != listing.digests[int(path)]:
            raise changed(
                str(config.name), f"row {path} holds another image than in splits.parquet"
            )
        return decode(content, "data.name", _name_of(path, config))

    return read


def _open(config: DataConfig) -> Any:
    import datasets  # half a second, with pandas, that other sources do not need

    name = str(config.name)
    try:
        rows = _load(name, config.split)
    # Its failures have no common base: no network, no such name, no such split, a broken file.
    except Exception as error:
        raise UserError(
            "data.name",
            name,
            f"split {config.split} cannot be loaded ({_first_line(error)})",
            "check the name, data.split and the network, or name a folder of Parquet files",
        ) from error
    for key in ("image_column", "label_column"):
        column = getattr(config, key)
        if column not in rows.column_names:
            raise UserError(
                f"data.{key}",
                column,
                f"{name} has the columns {', '.join(rows.column_names)}",
                "name one of them",
            )
    if not isinstance(rows.features[config.image_column], datasets.Image):
        raise UserError(
            "data.image_column",
            config.image_column,
            f"holds {rows.features[config.image_column]}, no images",
            "name a column of images",
        )
    return rows


def _load(name: str, split: str) -> Any:
    import datasets  # as in _open

    folder = Path(name)
    if not folder.is_dir():
        return datasets.load_dataset(name, split=split)
    if any((folder / file).exists() for file in ("state.json", "dataset_dict.json")):
        saved = datasets.load_from_disk(name)
        return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
    files = sorted(str(file) for file in folder.rglob("*.parquet"))
    if not files:
        raise FileNotFoundError("the folder holds no Parquet file")
    of_split = [file for file in files if Path(file).name.startswith(split)]
    # Taking all files for a split that is not there would mix test images into the training.
    if not of_split and any(Path(file).name.startswith(SPLITS) for file in files):
        raise FileNotFoundError(f"no Parquet file's name starts with {split}")
    return datasets.load_dataset("parquet", data_files={split: of_split or files}, split=split)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _encoded(rows: Any, config: DataConfig) -> Any:
    """The rows' images as they are stored, to be decoded one by one."""
    import datasets  # as in _open

    column = config.image_column
    # Undecoded, so that the digest is one of stored bytes and a broken image names its own row.
    return rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _content_of(row: dict[str, Any], path: str, config: DataConfig) -> tuple[int, str]:
    try:
        return content_of(_bytes_of(row, path, config))
    except ImageError:  # told of when it is read
        return absent_content("hub", path)


def _bytes_of(row: dict[str, Any], path: str, config: DataConfig) -> bytes:
    """Raises ImageError where there are none."""
    cell = row[config.image_column] or {"bytes": None, "path": None}
    content: bytes | None = cell["bytes"]
    try:
        if content is None and cell["path"] is None:
            raise ValueError("the row holds no image")
        return read_regular(Path(cell["path"])) if content is None else content
    except (OSError, ValueError) as error:
        raise unreadable("data.name", _name_of(path, config), error) from error


def _name_of(path: str, config: DataConfig) -> str:
    return f"{config.name}, row {path}"


def _labels(rows: Any, config: DataConfig) -> tuple[list[str | None], list[str] | None]:
    import datasets  # as in _open

    values = rows[config.label_column]
    feature = rows.features[config.label_column]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
        return [names[v] if v is not None and v >= 0 else None for v in values], names
    return [None if v is None or v in ("", -1) else str(v) for v in values], None
