"""Labels as a folder per class of links to the images, as other programs read them."""

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from cotrain_dist.errors import UserError
from cotrain_dist.printable import to_cell
from cotrain_dist.types import PoolLabel, Prediction

METADATA = "metadata.csv"


class LinkWriter:
    """Makes `folder`: CLASS/FILE for each image, a link, and metadata.csv with all columns.

    torchvision's ImageFolder reads the classes, `load_dataset("imagefolder", data_dir=FOLDER)` of
    datasets the columns. A context manager: the folder has its name once the block has ended well,
    until then it ends in .tmp; after an error nothing is left.
    """

    def __init__(self, folder: Path, file_of: Mapping[str, Path]) -> None:
        """file_of: the image file of each path. Raises UserError where FOLDER.tmp is there already.

        folder: exists not yet.
        """
        self._folder, self._file_of = folder, file_of
        self._part = folder.with_name(f"{folder.name}.tmp")
        if self._part.exists():  # somebody's own, or what a kill has left: nothing is replaced
            way_out = "delete it, or name another folder"
            raise UserError("--output", self._part, "exists already", way_out)
        self._part.mkdir()
        self._rows: list[dict[str, object]] = []
        self._names: set[str] = set()

    def __enter__(self) -> "LinkWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close() if kind is None else shutil.rmtree(self._part)

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Link the images of a block. Raises UserError for a class that can be no folder."""
        for row in predictions:
            if row.label in (".", "..") or "/" in row.label or "\0" in row.label:
                rule, way_out = "can be no folder's name", "name a file ending in .csv"
                raise UserError("--output", f"class {row.label}", rule, way_out)
            name = f"{row.label}/{self._free_name(row)}"
            link = self._part / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(self._file_of[row.path].absolute())
            cells = {key: to_cell(v) if isinstance(v, str) else v for key, v in asdict(row).items()}
            self._rows.append({"file_name": name} | cells)

    def _free_name(self, row: Prediction) -> str:
        """The image's path as one name; a number before it where that is taken."""
        name, number = row.path.replace("/", "__")[-200:], 1
        while (own := f"{row.label}/{name}") in self._names:
            name, number = f"{number}__{row.path.replace('/', '__')[-190:]}", number + 1
        self._names.add(own)
        return name

    def close(self) -> None:
        """Write metadata.csv and give the folder its name."""
        columns = ["file_name", *(field.name for field in fields(PoolLabel))]
        with (self._part / METADATA).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        os.rename(self._part, self._folder)
