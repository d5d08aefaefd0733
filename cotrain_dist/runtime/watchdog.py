"""A limit on what no time limit of torch covers: ends the process with a message."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cotrain_dist.errors import EXIT_PEER_LOST


@contextmanager
def ends_after(limit_seconds: float, message: str) -> Iterator[None]:
    """End the process with `message` and EXIT_PEER_LOST unless the block has ended by then.

    A thread does it: whoever waits inside a collective, or in the making of a process group whose
    launcher was killed, hears no exception and no signal handler of Python.
    """
    watchdog = threading.Timer(limit_seconds, _end, (message,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _end(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(EXIT_PEER_LOST)
