"""What lies below a folder: images, and what is named like one and is none."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cotrain_dist.data.sources.decode import EXTENSIONS
from cotrain_dist.printable import is_utf8

MOST_BYTES = 1 << 30
"""Of a file that is read: more than the largest image that Pillow decodes has."""

LEAVES = "is a link that leaves the folder"
NOT_UTF8 = "has a name that is not UTF-8"


@dataclass(frozen=True)
class Found:
    """The entries below a folder that are images, or look like some."""

    images: list[Path] = field(default_factory=list)
    strays: list[tuple[Path, str]] = field(default_factory=list)
    """What is no image that could be read, and why."""


def walk(folder: Path, root: Path | None = None) -> Found:
    """All entries below a folder with the ending of an image, hidden ones left out, sorted.

    root: links to files outside of it are strays; None takes them. Links to folders are not
    followed. Raises OSError where the folder itself cannot be opened.
    """
    found, base = Found(), None if root is None else os.path.realpath(root)
    for path, why in sorted(_entries(folder)):
        if why is None and base is not None and path.is_symlink() and leaves(path, base):
            why = LEAVES
        if why is None:
            found.images.append(path)
        else:
            found.strays.append((path, why))
    return found


def leaves(path: Path, base: str) -> bool:
    """Whether what a path leads to lies outside of a folder. base: its real path."""
    return os.path.commonpath([os.path.realpath(path), base]) != base


def _entries(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Each entry with the ending of an image, and why it is no file that can be read."""
    refused: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = [name for name in folders if is_seen(name)]
        for name in folders:
            path = Path(place, name)
            if path.is_symlink():
                yield path, "is a link to a folder, which is not followed"
            elif is_image(name):
                yield path, "is a folder"
        for name in filter(is_seen, filter(is_image, names)):
            path = Path(place, name)
            is_named = is_utf8(str(path.relative_to(folder)))
            yield path, _why_no_file(path) if is_named else NOT_UTF8
    for error in refused:
        if Path(error.filename) == folder:
            raise error
        yield Path(error.filename), f"cannot be opened ({error.strerror})"


def _why_no_file(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "is a link to nothing" if path.is_symlink() else str(error.strerror)
    return None if stat.S_ISREG(mode) else "is no file"


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises OSError, or ValueError for what is no file or a huge one."""
    found = path.stat()
    # To open a pipe would wait for its other end.
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is no file")
    if found.st_size > MOST_BYTES:
        raise ValueError(f"has {found.st_size} bytes, at most {MOST_BYTES} are read")
    return path.read_bytes()


def is_seen(name: str) -> bool:
    """Whether a file or folder is none of those that systems hide."""
    # Hidden folders hold copies of images: one that is in T could come back in L.
    return not name.startswith((".", "_"))


def is_image(name: str) -> bool:
    """Whether a name has the ending of an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS
