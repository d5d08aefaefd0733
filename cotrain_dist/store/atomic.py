"""Files and folders that appear whole or not at all.

Everything that a later start relies on is written through here: beside its place, flushed, then
renamed over it. A kill or a full disk in between leaves what stood there before.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An operating system's error in the block names the file; that of a full disk would not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    # Tasks side by side may write one file at one time: each its own copy, the last rename stands.
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write_flushed(beside, content)
        beside.rename(path)
    # Ctrl-C included: what was begun would stay beside the file for good.
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file that a later rename or manifest makes count, through to the disk."""
    with naming(path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole."""
    write_text(path, json.dumps(value, indent=1) + "\n")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` once the block has ended well."""
    beside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        # rename() replaces no folder that holds files. A kill right here leaves neither; for
        # models, a resume writes them again, as they are saved before their epoch is committed.
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    # The new name is an entry of the folder above.
    flush_folder(folder.parent)


def flush_folder(path: Path) -> None:
    """Write a folder's own entries through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
