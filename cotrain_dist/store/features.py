"""Features of a frozen backbone on disk: computed once, shared by ranks and runs, memory-mapped.

    FOLDER/KEY/about.json         what the key was made from
    FOLDER/KEY/00003.features     rows of block 3, raw float32 or float16
    FOLDER/KEY/00003.json         their number, width and SHA-256, written after them

A block is a fixed range of sample_ids, and whoever computes it gets the same bytes: so two builders
at once do no harm, and one that was killed has lost the block that it was at.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cotrain_dist.errors import UserError
from cotrain_dist.store import atomic

BLOCK_SIZE = 512
"""Images of a block: some seconds of one CPU core."""

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def default_folder() -> Path:
    """Where features lie unless the settings say: in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "cotrain_dist" / "features"


class FeatureStore:
    """The features of all images of a table under one backbone. Building one touches no disk."""

    def __init__(self, folder: Path, about: Mapping[str, Any], num_images: int, width: int) -> None:
        """about: JSON values that decide every bit of the features; their digest is the key."""
        text = json.dumps(about, sort_keys=True)
        self.path = folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        self.num_images, self.width = num_images, width
        self._folder, self._about = folder, dict(about)
        self._dtype = DTYPES[str(about["dtype"])]
        self._blocks: dict[int, np.ndarray] = {}

    def to_json(self) -> dict[str, Any]:
        """What another rank needs to open the same store."""
        return {
            "folder": str(self._folder),
            "about": self._about,
            "num_images": self.num_images,
            "width": self.width,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FeatureStore":
        """The store that `to_json` told of."""
        folder = Path(values["folder"])
        return cls(folder, values["about"], values["num_images"], values["width"])

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return -(-self.num_images // BLOCK_SIZE)

    def bounds(self, block: int) -> tuple[int, int]:
        """The sample_ids [start, stop) of a block."""
        return block * BLOCK_SIZE, min((block + 1) * BLOCK_SIZE, self.num_images)

    def has(self, block: int) -> bool:
        """Whether a block is there whole: as many bytes as it should have, of the right SHA-256."""
        start, stop = self.bounds(block)
        expected = [stop - start, self.width]
        try:
            about = json.loads(self._file(block, "json").read_text())
            content = self._file(block, "features").read_bytes()
        except (OSError, ValueError):
            return False
        is_whole = len(content) == expected[0] * expected[1] * self._dtype.itemsize
        digest = hashlib.sha256(content).hexdigest()
        return is_whole and bool(about == {"shape": expected, "sha256": digest})

    def write(self, block: int, features: Tensor) -> None:
        """Keep the rows of a block. features: [n, F] float32 on the CPU.

        Raises UserError where the folder takes no files.
        """
        content = features.numpy().astype(self._dtype).tobytes()
        about = {
            "shape": list(features.shape),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / "about.json").is_file():
                atomic.write_json(self.path / "about.json", self._about)
            atomic.write_bytes(self._file(block, "features"), content)
            atomic.write_json(self._file(block, "json"), about)
        except OSError as error:
            raise UserError(
                "data.feature_cache",
                self.path,
                f"cannot be written ({error.strerror})",
                "name a folder with space that can be written to",
            ) from error

    def read(self, sample_ids: Tensor) -> Tensor:
        """Rows [n, F] float32 of some images, from the blocks that hold them."""
        ids = sample_ids.numpy()
        rows = np.empty((len(ids), self.width), dtype=np.float32)
        owners = ids // BLOCK_SIZE
        for block in np.unique(owners).tolist():
            mine = owners == block
            rows[mine] = self._mapped(block)[ids[mine] - block * BLOCK_SIZE]
        return torch.from_numpy(rows)

    def _mapped(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            start, stop = self.bounds(block)
            self._blocks[block] = np.memmap(
                self._file(block, "features"), self._dtype, "r", shape=(stop - start, self.width)
            )
        return self._blocks[block]

    def _file(self, block: int, ending: str) -> Path:
        return self.path / f"{block:05d}.{ending}"
