"""Labels as a folder of Hugging Face's datasets, as its `save_to_disk` writes one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from cotrain_dist.store.linked import FolderWriter
from cotrain_dist.types import PoolLabel


class DatasetWriter(FolderWriter):
    """Makes `folder`, which `datasets.load_from_disk` reads.

    Columns: `image` (of the type Image) and those of PoolLabel, where `label`, `label_a` and
    `label_b` are of the type ClassLabel. `image` names the file, as an absolute path, and holds no
    copy of it; it is null where the image is no file, and missing where none is one.
    """

    def __init__(
        self, folder: Path, file_of: Mapping[str, Path], class_names: Sequence[str]
    ) -> None:
        """file_of: the image file of each path that has one. Raises UserError as FolderWriter."""
        super().__init__(folder)
        self._file_of = file_of
        self._features = _features_of(class_names, has_images=bool(file_of))
        self._blocks = [self._block([])]  # else nothing would say what columns no row has

    def write(self, rows: Sequence[PoolLabel]) -> None:
        """Take a block."""
        self._blocks.append(self._block(rows))

    def _block(self, rows: Sequence[PoolLabel]) -> Any:
        import datasets  # half a second, with pandas, that other formats do not need

        cells = [asdict(row) | {"image": self._image_of(row.path)} for row in rows]
        columns = {name: [row[name] for row in cells] for name in self._features}
        return datasets.Dataset.from_dict(columns, features=self._features)

    def _image_of(self, path: str) -> dict[str, Any] | None:
        file = self._file_of.get(path)
        return None if file is None else {"bytes": None, "path": str(file.absolute())}

    def finish(self) -> None:
        """Save all blocks."""
        import datasets  # as in _block

        rows = datasets.concatenate_datasets(self._blocks)
        is_quiet = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            # Without rows it would write no file, and could not be loaded.
            rows.save_to_disk(self.part, num_shards=None if len(rows) else 1)
        finally:
            if not is_quiet:
                datasets.enable_progress_bars()
        if self._file_of:
            # Only now: of a column that is called images before, `save_to_disk` copies the files.
            rows.info.features = datasets.Features({**rows.features, "image": datasets.Image()})
            rows.info.write_to_directory(self.part)


def _features_of(class_names: Sequence[str], *, has_images: bool) -> Any:
    import datasets  # as in DatasetWriter

    types = {
        str: datasets.Value("string"),
        float: datasets.Value("float64"),
        float | None: datasets.Value("float64"),
        bool: datasets.Value("bool"),
    }
    # As datasets stores an Image.
    image = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    found: dict[str, Any] = {"image": image} if has_images else {}
    for field in fields(PoolLabel):
        found[field.name] = types[field.type]  # type: ignore[index]
    for name in ("label", "label_a", "label_b"):
        found[name] = datasets.ClassLabel(names=list(class_names))
    return datasets.Features(found)
