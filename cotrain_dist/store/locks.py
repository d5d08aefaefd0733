"""Whether files can be locked in a folder: not on every shared file system."""

import errno
import fcntl
import os
from pathlib import Path

from cotrain_dist.runtime.progress import warn_early

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Lustre without `-o flock`, NFS without its lock service, some FUSE file systems."""


def why_no_locks(folder: Path) -> str | None:
    """In the system's words; None where files can be locked.

    Asked before filelock, whose versions differ: it raises, waits, or locks in another way that
    outlives a kill.
    """
    # On a file of its own: whoever takes the real lock at this moment would find it held.
    probe = folder / f"lock.{os.getpid()}.tmp"
    try:
        with probe.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return str(error.strerror)
    finally:
        probe.unlink(missing_ok=True)
    return None


def can_lock(folder: Path) -> bool:
    """Whether files can be locked there; warns where not, since nothing then keeps two apart."""
    # No refusal: where the one file system that all nodes share has no locks, nobody could train.
    why = why_no_locks(folder)
    if why is not None:
        warn_early(
            f"output_dir: {folder}: files cannot be locked here ({why}), so a second training into "
            "it would not be noticed; start no two, or mount it with locks (Lustre: -o flock)"
        )
    return why is None
