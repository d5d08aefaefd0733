"""What another rank has written, as this node sees it.

A network file system may answer from memory, for up to a minute, that a name is absent, or with
what it held before.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from cotrain_dist.errors import UserError

SEEN_WITHIN_SECONDS = 90.0
RETRY_SECONDS = 0.2


def wait_until_seen(path: Path, is_right: Callable[[Path], bool] = Path.exists) -> None:
    """Return once this node sees what another rank has written. Raises UserError after a limit."""
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while not is_right(path):
        if time.monotonic() > deadline:
            raise UserError(
                "output_dir",
                path,
                f"another rank has written it, but {socket.gethostname()} does not see the same "
                f"after {SEEN_WITHIN_SECONDS:.0f} s",
                "name a directory on a file system that all nodes share",
            )
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # asks the server, where a look-up is answered from memory
        time.sleep(RETRY_SECONDS)
