"""Features of a frozen backbone on disk: computed once per image, shared by ranks and runs.

    FOLDER/KEY/about.json         what the key was made from: weights, preprocessing, versions
    FOLDER/KEY/NAME.features      rows of a block of images, raw float32 or float16, memory-mapped
    FOLDER/KEY/NAME.json          their number, width and SHA-256, and which images they are

An image is known by its SHA-256. So a folder with more images, a table with other labels or a run
with other splits computes what is new and no more. Whoever computes an image gets the same bytes:
two builders at once do no harm, and one that was killed has lost the block that it was at.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotrain_dist.errors import UserError
from cotrain_dist.store import atomic

BLOCK_SIZE = 512
"""Images of a block: some seconds of one CPU core."""

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}

ABOUT = "about.json"


def default_folder(what: str = "features") -> Path:
    """Where features, or other things that are kept, lie unless the settings say."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "cotrain_dist" / what


class FeatureStore:
    """The features of a table's images under one backbone. Building one touches no disk."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], digests: Sequence[str], width: int
    ) -> None:
        """about: JSON values that decide every bit of an image's features, and are the key.

        digests: SHA-256 of each sample_id's image, in hex. width: numbers of a row.
        """
        text = json.dumps(about, sort_keys=True)
        self.path = folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        self.width = width
        self._folder, self._about = folder, dict(about)
        self._dtype = DTYPES[str(about["dtype"])]
        # Sorted, and each image once: blocks do not depend on the order of a table, or its copies.
        self._images, self._first_id, self._place = np.unique(
            packed(digests), return_index=True, return_inverse=True
        )
        self._files: list[Path] = []
        self._file_of = np.full(len(self._images), -1)
        self._row_of = np.zeros(len(self._images), dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """What another rank with the same table needs to open the same store."""
        return {"folder": str(self._folder), "about": self._about, "width": self.width}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], digests: Sequence[str]) -> "FeatureStore":
        """The store that `to_json` told of."""
        return cls(Path(values["folder"]), values["about"], digests, values["width"])

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return -(-len(self._images) // BLOCK_SIZE)

    def missing(self, block: int, wanted: Tensor | None = None) -> Tensor:
        """A sample_id of each image of a block that has no features here, [n] int64.

        wanted: sample_ids of the images that are asked for, of which each may be any copy; None is
        all images. As of the last `look`.
        """
        places = np.arange(block * BLOCK_SIZE, min((block + 1) * BLOCK_SIZE, len(self._images)))
        if wanted is not None:
            places = np.intersect1d(places, self._place[wanted.numpy()])
        return torch.from_numpy(self._first_id[places[self._file_of[places] < 0]])

    def found(self) -> Tensor:
        """Whether each sample_id's image has features here, [N] bool. As of the last `look`."""
        return torch.from_numpy(self._file_of[self._place] >= 0)

    def look(self) -> None:
        """Find the images whose features are here: those of whole files of the right SHA-256."""
        known = set(self._files)
        for about in sorted(self.path.glob("*.json")):
            if about.name == ABOUT or about in known:
                continue
            images, digest = _said_in(about)
            places = np.searchsorted(self._images, images)
            is_ours = self._images[np.minimum(places, len(self._images) - 1)] == images
            if is_ours.any() and self._is_whole(about, len(images), digest):
                rows = np.flatnonzero(is_ours)
                self._file_of[places[rows]], self._row_of[places[rows]] = len(self._files), rows
                self._files.append(about)

    def _is_whole(self, about: Path, num_rows: int, digest: str) -> bool:
        try:
            content = about.with_suffix(".features").read_bytes()
        except OSError:
            return False
        is_right = hashlib.sha256(content).hexdigest() == digest
        return is_right and len(content) == num_rows * self.width * self._dtype.itemsize

    def write(self, sample_ids: Tensor, features: Tensor) -> None:
        """Keep the rows of some images. sample_ids: [n] int64; features: [n, F] float32, CPU.

        Raises UserError where the folder takes no files.
        """
        content = features.numpy().astype(self._dtype).tobytes()
        images = [image.hex() for image in self._images[self._place[sample_ids.numpy()]].tolist()]
        about = {
            "shape": list(features.shape),
            "sha256": hashlib.sha256(content).hexdigest(),
            "images": images,
        }
        name = hashlib.sha256("".join(images).encode()).hexdigest()[:24]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / ABOUT).is_file():
                atomic.write_json(self.path / ABOUT, self._about)
            atomic.write_bytes(self.path / f"{name}.features", content)
            atomic.write_json(self.path / f"{name}.json", about)
        except OSError as error:
            raise UserError(
                "data.feature_cache",
                self.path,
                f"cannot be written ({error.strerror})",
                "name a folder with space that can be written to",
            ) from error

    def read(self, sample_ids: Tensor) -> Tensor:
        """Rows [n, F] float32 of some images, all of which `look` has found."""
        places = self._place[sample_ids.numpy()]
        rows = np.empty((len(places), self.width), dtype=np.float32)
        owners = self._file_of[places]
        for owner in np.unique(owners).tolist():
            mine = owners == owner
            assert owner >= 0, "an image without features was asked for"
            # Mapped anew each time: what stays mapped counts as this process's memory.
            file = self._files[owner].with_suffix(".features")
            mapped = np.memmap(file, self._dtype, "r").reshape(-1, self.width)
            rows[mine] = mapped[self._row_of[places[mine]]]
        return torch.from_numpy(rows)


def _said_in(about: Path) -> tuple[NDArray[Any], str]:
    """The images of a file's rows and its SHA-256; no image where this is damaged."""
    try:
        said = json.loads(about.read_text())
        return packed(said["images"]), str(said["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return packed([]), ""


def packed(digests: Sequence[str]) -> NDArray[Any]:
    """[n] of 32 bytes each: a million of them take 32 MB."""
    return np.array([bytes.fromhex(digest) for digest in digests], dtype="V32")
