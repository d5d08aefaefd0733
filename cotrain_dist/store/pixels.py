"""Decoded images on disk: each one decoded and shrunk once, by whichever rank or run comes first.

    FOLDER/KEY/about.json   what the key was made from: how images are shrunk, by which versions
    FOLDER/KEY/pixels       a row for each different image: checksum, width, height, uint8 pixels

A row is filled when it is first needed, in one write. Whoever fills it writes the same bytes, so
two builders at once do no harm, and one that was killed has lost an image at most. A row counts
only with the right checksum, at every read. The file is read and written and not mapped: a full
disk or a file cut short is then an error to act on, where a mapping would end the process.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from cotrain_dist.store import atomic
from cotrain_dist.store.features import packed

HEADER = np.dtype([("checksum", "<u8"), ("width", "<u4"), ("height", "<u4")])

GIGABYTE = 10**9

ABOUT, PIXELS = "about.json", "pixels"


class NoRoom(Exception):
    """Why a cache is not begun: it would grow over a limit."""


class PixelCache:
    """The images of a table in one view: squares of `side` pixels. Safe in several threads."""

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        digests: Sequence[str],
        side: int,
        *,
        most_gigabytes: float = float("inf"),
    ) -> None:
        """Open the file, or begin it.

        about: JSON values that decide every pixel; with the images they are the key. digests:
        SHA-256 of each sample_id's image, in hex. Raises NoRoom where the folder would hold more
        than `most_gigabytes`, or the disk has less left; OSError where it cannot be made.
        """
        # Sorted, and each image once: a table in another order, or with copies, has the same file.
        images, self._row_of = np.unique(packed(digests), return_inverse=True)
        text = json.dumps({"side": side, **about}, sort_keys=True)
        key = hashlib.sha256(text.encode() + images.tobytes()).hexdigest()[:24]
        self.path = folder / key / PIXELS
        self.num_damaged = 0
        """Rows met so far whose checksum was not that of their pixels."""
        self._side = side
        self._row_bytes = HEADER.itemsize + side * side * 3
        self._size = len(images) * self._row_bytes
        if not self.path.is_file():
            self._check_room(folder, most_gigabytes)
        self._file, self.can_write = self._open(dict(about))

    def _check_room(self, folder: Path, most_gigabytes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        held = sum(file.stat().st_blocks * 512 for file in folder.glob(f"*/{PIXELS}"))
        most = int(most_gigabytes * GIGABYTE) if np.isfinite(most_gigabytes) else self._size + held
        if held + self._size > most:
            raise NoRoom(
                f"{folder} holds {held / GIGABYTE:.1f} GB, {self._size / GIGABYTE:.1f} GB more "
                f"would be over data.cache_gb, {most_gigabytes:g}; delete what is old there"
            )
        if (free := shutil.disk_usage(folder).free) < self._size:
            raise NoRoom(
                f"the disk of {folder} has {free / GIGABYTE:.1f} GB left, "
                f"{self._size / GIGABYTE:.1f} GB are needed"
            )

    def _open(self, about: dict[str, Any]) -> tuple[Any, bool]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.with_name(ABOUT).is_file():
                atomic.write_json(self.path.with_name(ABOUT), about)
            self._begin()
            return self.path.open("r+b", buffering=0), True
        except OSError:
            if not self.path.is_file() or self.path.stat().st_size != self._size:
                raise
            return self.path.open("rb", buffering=0), False  # what others have filled still serves

    def _begin(self) -> None:
        """Let a file of the right size stand: of holes, which read as rows that are not filled."""
        found = self.path.stat().st_size if self.path.is_file() else 0
        if found == self._size:
            return
        if found:  # cut short, or not of this cache
            self.num_damaged += 1
            self.path.unlink()
        # Two builders: both make the same size of it, which loses nothing that one has written.
        with self.path.open("ab") as file:
            file.truncate(self._size)

    def read(
        self, sample_ids: NDArray[np.int64], pixels: NDArray[np.uint8], sizes: NDArray[np.uint32]
    ) -> list[int]:
        """Fill in what is kept; returns the places of `sample_ids` that are not.

        pixels: [n, side, side, 3], written to. sizes: [n, 2], width and height before shrinking,
        written to. Raises OSError where the file cannot be read.
        """
        missing = []
        header, file = np.zeros(1, dtype=HEADER), self._file.fileno()
        for place, row in enumerate(self._row_of[sample_ids].tolist()):
            target = pixels[place]
            with atomic.naming(self.path):
                count = os.preadv(file, [header.data, target.data], row * self._row_bytes)
            checksum, width, height = header[0].item()
            if count == self._row_bytes and width:
                if checksum == _checksum(target, width, height):
                    sizes[place] = width, height
                    continue
                self.num_damaged += 1
            missing.append(place)
        return missing

    def holds(self, sample_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images were decoded and kept; their pixels are checked when they are read.

        Raises OSError where the file cannot be read.
        """
        size, file = HEADER.itemsize, self._file.fileno()
        starts = (self._row_of[sample_ids] * self._row_bytes).tolist()
        with atomic.naming(self.path):
            # What a file that was cut short lacks reads as a row that is not filled.
            headers = b"".join(os.pread(file, size, start).ljust(size, b"\0") for start in starts)
        return np.frombuffer(headers, dtype=HEADER)["width"] > 0

    def write(self, sample_id: int, pixels: NDArray[np.uint8], width: int, height: int) -> None:
        """Keep one image: [side, side, 3], contiguous. Raises OSError, of a full disk above all."""
        header = np.array([(_checksum(pixels, width, height), width, height)], dtype=HEADER)
        start = int(self._row_of[sample_id]) * self._row_bytes
        with atomic.naming(self.path):
            count = os.pwritev(self._file.fileno(), [header.data, pixels.data], start)
            if count != self._row_bytes:  # a disk that fills up takes a part first
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _checksum(pixels: NDArray[np.uint8], width: int, height: int) -> int:
    return int(xxhash.xxh3_64_intdigest(pixels.data, seed=width << 32 | height))
