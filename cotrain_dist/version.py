"""Which version runs: results of two versions must not be taken for results of one."""

import hashlib
from pathlib import Path

__version__ = "0.2.0"

FEATURES_VERSION = 2
"""To be raised when the way of an image to its features changes a bit."""

PIXELS_VERSION = 1
"""To be raised when the way of an image to its cached pixels changes a bit."""

PACKAGE = Path(__file__).parent


def source_digest() -> str:
    """The first 12 digits of a SHA-256 over the package's Python files, their names and contents.

    The same for a clone and for an installed copy, whether or not there is a repository.
    """
    digest = hashlib.sha256()
    # Sorted: file systems list in orders of their own, and all nodes must find the same digest.
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]
