"""Images in files: class folders, tables of paths, folders without labels."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.same_as import fill_same
from cotrain_dist.data.sources.decode import decode, unreadable
from cotrain_dist.data.sources.folders import (
    LEAVES,
    NOT_UTF8,
    Found,
    is_seen,
    leaves,
    read_regular,
    walk,
)
from cotrain_dist.data.sources.listing import (
    ABSENT,
    TEST,
    UNLABELED,
    BadImage,
    Listing,
    absent_content,
    content_of,
    listing_of,
)
from cotrain_dist.errors import UserError
from cotrain_dist.printable import from_cell, is_utf8


def folders_of(config: DataConfig) -> dict[str, Path]:
    """The folder that each source of files starts from."""
    folders = {}
    if config.source == "imagefolder":
        folders["imagefolder"] = Path(config.root or "")
    if config.source == "csv":
        folders["csv"] = Path(config.root) if config.root else Path(config.table or "").parent
    if config.unlabeled:
        folders[UNLABELED] = Path(config.unlabeled)
    if config.test:
        folders[TEST] = Path(config.test)
    return folders


def absolute_paths(config: DataConfig, listing: Listing) -> set[str]:
    """The files of a listing of the configured source, where it is one of files."""
    folder = folders_of(config).get(config.source)
    return set() if folder is None else {os.path.abspath(folder / path) for path in listing.paths}


def list_class_folders(
    root: Path, key: str, source: str = "imagefolder", *, follow_links: bool = False
) -> Listing:
    """One folder per class; images may lie in folders below it, other files are skipped.

    A folder that is a link out of the root is an empty class, without `follow_links`.

    Listed here and not by `load_dataset`, which takes folders named train or test for splits,
    reads metadata files, and copies the listing into a cache of the user's.
    """
    _check_folder(root, key, "name one that holds one folder per class")
    # Sorted, here and in `images_below`: every file system has an order of its own, and a sample_id
    # is a place in this list.
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and is_seen(entry.name))
    class_names = [name for name in names if is_utf8(name)]
    files: list[Path] = []
    labels: list[str | None] = []
    bad = [BadImage(source, name, None, NOT_UTF8) for name in names if not is_utf8(name)]
    for name in class_names:
        found = _class_folder(root, name, follow_links=follow_links)
        files += found.images
        labels += [name] * len(found.images)
        bad += _bad_images(found, root, source, name)
    if len(class_names) < 2 or not files:
        also = f"; {bad[0].path} {bad[0].reason}" if bad else ""
        raise UserError(
            key,
            root,
            f"holds {len(class_names)} class folder(s) with {len(files)} image(s){also}",
            "put the images of each class into a folder of its own, at least two classes",
        )
    return _listing_of_files(source, root, files, labels, class_names, bad)


def _class_folder(root: Path, name: str, *, follow_links: bool) -> Found:
    folder = root / name
    if follow_links:
        return walk(folder)
    if folder.is_symlink() and leaves(folder, os.path.realpath(root)):
        return Found(strays=[(folder, LEAVES)])
    return walk(folder, root)


def _bad_images(found: Found, root: Path, source: str, class_name: str | None) -> list[BadImage]:
    return [
        BadImage(source, path.relative_to(root).as_posix(), class_name, why)
        for path, why in found.strays
    ]


def list_table(config: DataConfig, *, needs_classes: bool = True) -> Listing:
    """The rows of a CSV file; an empty label is no label.

    needs_classes: whether at least two have to be labeled.
    """
    table, folder = Path(config.table or ""), folders_of(config)["csv"]
    rows = fill_same(read_rows(table, config, "data.table"), config)
    paths = [_path_in(folder, row[config.path_column]) for row in rows]
    files = [folder / path for path in paths]
    # All of them are counted: a wrong root lacks every file, a wrong line only one.
    missing = [str(file) for file in files if not file.is_file()]
    if len(missing) == len(files) or (missing and config.on_bad_image == "error"):
        raise UserError(
            "data.table",
            table,
            f"{len(missing)} of {len(files)} files are missing, the first is {missing[0]}",
            "give data.root, the folder that the paths start from, or fix the table",
        )
    labels = [from_cell(row[config.label_column].strip()) or None for row in rows]
    if needs_classes and len(set(labels) - {None}) < 2:
        raise UserError(
            "data.table",
            table,
            f"labels {len(set(labels) - {None})} class(es)",
            "label images of at least two classes",
        )
    contents = [_content_of(file, "csv", path) for file, path in zip(files, paths, strict=True)]
    return listing_of("csv", paths, labels, contents)


def _path_in(folder: Path, cell: str) -> str:
    """The path that a cell names; `queue` puts an apostrophe before what would be a formula."""
    is_quoted = from_cell(cell) != cell and not (folder / cell).is_file()
    return from_cell(cell) if is_quoted else cell


def read_rows(table: Path, config: DataConfig, key: str) -> list[dict[str, str]]:
    """The rows of a CSV file by column, each as long as the header; the settings name two columns.

    Raises UserError under `key`, or that of a column, where they cannot be had.
    """
    try:
        # Spreadsheets begin a file with a byte order mark, which would belong to the first heading.
        with table.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            key, table, f"cannot be read ({error})", "name a CSV file with a header"
        ) from error
    for name in ("path_column", "label_column"):
        column = getattr(config, name)
        if not rows or header.count(column) != 1:
            raise UserError(
                f"data.{name}",
                column,
                f"{table} has the columns {', '.join(header) if rows else '(no rows)'}",
                "name one of them that stands there once",
            )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(
                key,
                table,
                f"row {number} ({', '.join(row)}) has {len(row)} cells, the header {len(header)}",
                "fix the row; a cell with a comma stands in double quotes",
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def list_unlabeled(root: Path, listed: set[str], *, follow_links: bool = False) -> Listing:
    """All images below a folder, without labels, but for those whose absolute paths are listed.

    A table of labels and the folder that its images lie in are a usual pair.
    """
    _check_folder(root, "data.unlabeled", "name one that holds images")
    found = walk(root, None if follow_links else root)
    files = [path for path in found.images if os.path.abspath(path) not in listed]
    if not files:
        other = " beside those of the labeled source" if listed else ""
        raise UserError("data.unlabeled", root, f"holds no image{other}", "name one that does")
    bad = _bad_images(found, root, UNLABELED, None)
    return _listing_of_files(UNLABELED, root, files, [None] * len(files), [], bad)


def list_without_classes(config: DataConfig) -> Listing:
    """The images of a folder at any depth, or of a table; labels count where a table gives some.

    For what is asked before there are classes. Raises UserError where there is no image.
    """
    if config.source == "imagefolder":
        root = Path(config.root or "")
        _check_folder(root, "data.root", "name one that holds images")
        found = walk(root, None if config.follow_links else root)
        files = found.images
        if not files:
            raise UserError("data.root", root, "holds no image", "name a folder that does")
        bad = _bad_images(found, root, "imagefolder", None)
        return _listing_of_files("imagefolder", root, files, [None] * len(files), [], bad)
    if config.source == "csv":
        return list_table(config, needs_classes=False)
    raise UserError(
        "data.source",
        config.source,
        "its images are no files that a person could open and label",
        "give data.root, a folder of images, or data.table",
    )


def list_test(root: Path, class_names: Sequence[str], *, follow_links: bool = False) -> Listing:
    """Class folders whose classes are those of the source."""
    listing = list_class_folders(root, "data.test", TEST, follow_links=follow_links)
    strangers = sorted(set(listing.class_names) - set(class_names))
    if strangers:
        raise UserError(
            "data.test",
            root,
            f"has classes that the labeled images lack: {', '.join(strangers)}",
            "name its folders like the classes of the labeled images",
        )
    # The folder may hold some of the classes only, and an id must mean the same class in all
    # splits.
    ids = torch.tensor([class_names.index(name) for name in listing.class_names])
    return replace(listing, class_ids=ids[listing.class_ids], class_names=tuple(class_names))


def _check_folder(root: Path, key: str, way_out: str) -> None:
    if not root.is_dir():
        raise UserError(key, root, "is no folder", way_out)


def images_below(folder: Path) -> list[Path]:
    """Files with the ending of an image, hidden ones left out, sorted; links may lead anywhere."""
    return walk(folder).images


def _listing_of_files(
    source: str,
    root: Path,
    files: Sequence[Path],
    labels: Sequence[str | None],
    class_names: Sequence[str],
    bad: Sequence[BadImage],
) -> Listing:
    paths = [file.relative_to(root).as_posix() for file in files]
    # Reads every byte, once, on the lead rank: less than a second for 10,000 small files.
    contents = [_content_of(file, source, path) for file, path in zip(files, paths, strict=True)]
    return listing_of(source, paths, labels, contents, class_names, bad)


def _content_of(file: Path, source: str, path: str) -> tuple[int, str]:
    try:
        return content_of(read_regular(file))
    except (OSError, ValueError):  # told of when it is read as an image
        return absent_content(source, path)


def check_files(folders: Mapping[str, Path], listing: Listing) -> None:
    """Compare every file's size with splits.parquet: cheap, and finds other data of that name.

    What is of no use is not looked for: it may have been removed since.
    """
    bad = set(listing.bad_ids)
    columns = zip(listing.sources, listing.paths, listing.sizes, strict=True)
    for sample_id, (source, path, size) in enumerate(columns):
        if source not in folders or size == ABSENT or sample_id in bad:
            continue
        file = folders[source] / path
        # No digests here: every rank would read all images again.
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            raise UserError(
                _key_of(source),
                file,
                "is missing"
                if found is None
                else f"has {found} bytes, not {size} as in splits.parquet",
                "name the folder that the splits were drawn from, with its files unchanged",
            )


def file_reader(source: str, folder: Path) -> Callable[[str], Image.Image]:
    """Reads the image at a path below the folder of a source."""
    return lambda path: read_file(folder / path, _key_of(source))


def read_file(path: Path, key: str = "data.root") -> Image.Image:
    """One image file, decoded. Raises ImageError naming a file that is no image."""
    try:
        content = read_regular(path)
    except (OSError, ValueError) as error:
        raise unreadable(key, path, error) from error
    return decode(content, key, path)


def place_of(
    source: str, path: str, folders: Mapping[str, Path], config: DataConfig
) -> tuple[str, object]:
    """The setting that an image comes from, and what people call it."""
    if source in folders:
        return _key_of(source), folders[source] / path
    return "data.name", f"{config.name}, {'row' if source == 'hub' else 'sample'} {path}"


def _key_of(source: str) -> str:
    """The setting that names a source's folder."""
    return f"data.{source}" if source in (UNLABELED, TEST) else "data.root"
