"""Locks in a run directory: whether there are any, and the fence around what is written.

The lock of a run (`run_directory.py`) is the lead rank's. Where that one and the launcher are dead,
other ranks of the same attempt may live on for a while, with a commit in hand. So each write of a
rank stands behind a fence: a file with the number of the attempt that holds the run. Who writes
locks it shared and compares the number; who takes the run over locks it alone and raises the
number. The number only grows, so an old view of it, on a network file system, ends nobody.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


FENCE_SECONDS = 120.0
"""How long a start waits for what ranks of an earlier attempt are writing."""

FENCE_RETRY_SECONDS = 0.2


def attempt_behind(fence: Path) -> int:
    """The attempt that holds the run, as its file says; 0 where it says nothing."""
    text = fence.read_text() if fence.exists() else ""
    return int(text) if text.strip().isdecimal() else 0


@contextmanager
def writing_as(attempt: int, fence: Path) -> Iterator[int]:
    """Lets no later attempt begin inside the block; gives the one that holds the run by now."""
    with fence.open("a+") as file:
        _lock(file.fileno(), fcntl.LOCK_SH, fence)
        yield max(attempt, attempt_behind(fence))


def take_over(attempt: int, fence: Path) -> None:
    """Make `attempt` the one that holds the run, once no rank of another one writes any more.

    Raises TimeoutError where that is not so after FENCE_SECONDS.
    """
    with fence.open("a+") as file:
        _lock(file.fileno(), fcntl.LOCK_EX, fence)
        file.truncate(0)  # in its place, as the lock is one of this very file
        file.write(f"{attempt}\n")
        file.flush()
        os.fsync(file.fileno())


def _lock(descriptor: int, kind: int, fence: Path) -> None:
    """Lock an open file; does nothing where there are no locks, as `can_lock` has told."""
    deadline = time.monotonic() + FENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                why = f"locked for {FENCE_SECONDS:.0f} s by another attempt of the run"
                raise TimeoutError(errno.ETIMEDOUT, why, str(fence)) from None
        except OSError as error:
            if error.errno in NO_LOCKS:
                return None
            raise
        time.sleep(FENCE_RETRY_SECONDS)
