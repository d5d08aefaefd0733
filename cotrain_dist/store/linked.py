"""Labels as folders that other programs read: of links, one folder per class; any other's base."""

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Self

from cotrain_dist.errors import UserError
from cotrain_dist.printable import to_cell
from cotrain_dist.types import PoolLabel

METADATA = "metadata.csv"

HIDDEN = (".", "_")
"""How names begin that `data.root` passes over, and others in part."""

LONGEST_NAME = 200
"""Bytes of a link's name; file systems take 255."""


class FolderWriter:
    """Makes `folder`, of what a subclass writes into `self.part`.

    A context manager: the folder has its name once the block has ended well, until then it ends in
    .tmp; after an error nothing is left.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where FOLDER.tmp is there already; folder: exists not yet."""
        self._folder = folder
        self.part = folder.with_name(f"{folder.name}.tmp")
        if self.part.exists():  # somebody's own, or what a kill has left: nothing is replaced
            way_out = "delete it, or name another folder"
            raise UserError("--output", self.part, "exists already", way_out)
        self.part.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            shutil.rmtree(self.part, ignore_errors=True)  # not there any more after a good end

    def write(self, rows: Sequence[PoolLabel]) -> None:
        """Take a block."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what is left."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the folder its name."""
        self.finish()
        os.rename(self.part, self._folder)


class LinkWriter(FolderWriter):
    """Makes `folder`: CLASS/FILE for each image, a link, and metadata.csv with all columns.

    torchvision's ImageFolder reads the classes, `load_dataset("imagefolder", data_dir=FOLDER)` of
    datasets the columns.
    """

    def __init__(self, folder: Path, file_of: Mapping[str, Path]) -> None:
        """file_of: the image file of each path. Raises UserError as FolderWriter does."""
        super().__init__(folder)
        self._file_of = file_of
        self._rows: list[dict[str, object]] = []
        self._names: set[str] = set()

    def write(self, rows: Sequence[PoolLabel]) -> None:
        """Link the images of a block, of classes that `require_folder_names` lets pass."""
        for row in rows:
            name = f"{row.label}/{self._free_name(row)}"
            link = self.part / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(self._file_of[row.path].absolute())
            cells = {key: to_cell(v) if isinstance(v, str) else v for key, v in asdict(row).items()}
            self._rows.append({"file_name": name} | cells)

    def _free_name(self, row: PoolLabel) -> str:
        """The image's path as one name; a number before it where that is taken."""
        end, number = _end_of(row.path.replace("/", "__"), LONGEST_NAME), 0
        name = f"0{end}" if end.startswith(HIDDEN) else end
        while (own := f"{row.label}/{name}") in self._names:
            number += 1
            name = f"{number}__{end}"
        self._names.add(own)
        return name

    def finish(self) -> None:
        """Write metadata.csv."""
        columns = ["file_name", *(field.name for field in fields(PoolLabel))]
        with (self.part / METADATA).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)


def require_folder_names(class_names: Sequence[str]) -> None:
    """Raise UserError for a class whose name no folder can have, or one that is read as no class.

    Names stay as they are: one that was changed would be another class to whoever reads the folder.
    """
    for name in class_names:
        is_name = 0 < len(os.fsencode(name)) <= 255 and not {"/", "\0"} & set(name)
        if not is_name or name.startswith(HIDDEN) or name == METADATA:
            rule = "can be no folder's name"
            way_out = "--format datasets, or name a file ending in .csv"
            raise UserError("--output", f"class {name}", rule, way_out)


def _end_of(name: str, num_bytes: int) -> str:
    """The end of a name, which keeps its ending; whole letters."""
    while len(os.fsencode(name)) > num_bytes:
        name = name[1:]
    return name
