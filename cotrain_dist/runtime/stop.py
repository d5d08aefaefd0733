"""Ending the process from a thread: on a signal, for a file that asks for it, or after a limit.

The main thread may sit inside a collective, where no handler and no exception reaches it.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from cotrain_dist.errors import EXIT_INTERRUPTED, EXIT_PEER_LOST, EXIT_STOPPED

logger = logging.getLogger(__name__)

# SIGINT comes from a keyboard, SIGTERM from launchers and schedulers, SIGUSR1 from SLURM two
# minutes before a time limit (launch/slurm/train.sbatch).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

PATIENCE_SECONDS = 20.0
"""How long the steps of an epoch, once begun, may go on until a commit: launchers kill after 30 s,
and the last rank hears of it up to 5 s late."""

SAME_REQUEST_SECONDS = 1.0
"""Within it a second signal is the first one: of Ctrl-C, a launcher hands its own copy on."""

A_REQUEST = "a request"
"""What a rank tells that stops with its model before it has heard what asked."""

LOOK_SECONDS = 0.5
"""Between two looks for the stop file."""

STOP_FILE = "stop"
"""Within a run directory: who makes it asks the run to stop."""


class Stop:
    """Whether this process was asked to stop, and how it ends then.

    From the first step of an epoch to its commit (`begin_steps` to `rest`) the main thread looks
    after each few steps, commits and calls `end`. Anywhere else nothing waits, since all that was
    worked out is committed. Other ranks hear of it, and do the same.
    """

    def __init__(self) -> None:
        self.is_armed = False
        """Whether this process is a command that signals may end, and no notebook."""
        self._asked, self._ending = threading.Event(), threading.Lock()
        self._is_patient = False
        self._by, self._asked_at = "", 0.0
        self.tell: Callable[[str], None] = lambda by: None
        """Tells the other ranks. Called once, from the thread that hears."""
        self.let_hear: Callable[[], None] = lambda: None
        """Returns once the others have heard, or after a limit. Called right before the end."""

    @property
    def is_asked(self) -> bool:
        """Whether something has asked for an end."""
        return self._asked.is_set()

    def begin_steps(self) -> None:
        """From now on there is something to commit: the main thread ends the process."""
        self._is_patient = True

    def rest(self, what: str) -> None:
        """All is committed, and `what` says so: end where that was waited for."""
        self._is_patient = False
        if self.is_asked:
            self.end(what)

    def ask(self, by: str) -> None:
        """Ask for an end. by: what does, for the message. Called from another thread."""
        if self.is_asked:
            return
        self._by, self._asked_at = by, time.monotonic()
        self._asked.set()
        timer = threading.Timer(PATIENCE_SECONDS, self.end)
        timer.daemon = True
        timer.start()
        self.tell(by)
        if not self._is_patient:
            self.end()

    def hear(self, number: int) -> None:
        """A signal has come; a second one ends the process at once. Called from another thread."""
        if self.is_asked and time.monotonic() - self._asked_at > SAME_REQUEST_SECONDS:
            self._exit("at once; ", EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED)
        self.ask(signal.Signals(number).name)

    def end(self, what: str = "") -> NoReturn:
        """End the process with one line and EXIT_STOPPED. what: what was committed for it."""
        if not self.is_asked:  # its model stops together, and rank 0 waits until all know of it
            self._asked.set()
            self.tell(A_REQUEST)
        self.let_hear()
        self._exit(what, EXIT_STOPPED)

    def _exit(self, what: str, code: int) -> NoReturn:
        self._ending.acquire()  # for good: two threads may come here, and one line is enough
        message = (
            f"rank {os.environ.get('RANK', '0')}: stopped by "
            f"{self._by or 'another rank of its model'}; "
            f"{what}go on with train --resume from the last commit"
        )
        logger.error(message)
        print(message, file=sys.stderr, flush=True)
        logging.shutdown()  # os._exit flushes nothing
        os._exit(code)


STOP = Stop()
"""Of this process, as its signals are."""


def end_on_signal() -> None:
    """From now on a signal of SIGNALS ends the process with one line and EXIT_STOPPED.

    Call from the main thread. A handler in Python would run only after the collective or the step
    that the main thread is in, which may take hours; so a thread hears the signal, through a pipe.
    """
    hearing, telling = os.pipe()
    # set_wakeup_fd refuses an end that may block.
    os.set_blocking(telling, False)
    signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    STOP.is_armed = True
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)  # else the default ends the process
    threading.Thread(target=_listen, args=(hearing,), name="stop", daemon=True).start()


def _listen(hearing: int) -> None:
    while True:
        (number,) = os.read(hearing, 1)
        if number in SIGNALS:
            # In a thread of its own: the first one may wait for others while a second one comes.
            threading.Thread(target=STOP.hear, args=(number,), name="stop", daemon=True).start()


@contextmanager
def stops_by_file(run: Path) -> Iterator[None]:
    """Within the block, a file `stop` in the run directory asks this process to stop, and is taken.

    One that lies there from before is taken as well, and asks for nothing. A process that signals
    do not end, such as a notebook's, is not ended by a file either.
    """
    if not STOP.is_armed:
        yield
        return
    file, over = run / STOP_FILE, threading.Event()
    file.unlink(missing_ok=True)

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError):  # not there yet, or a directory that is away
                file.unlink()
                STOP.ask(f"the file {file}")

    looking = threading.Thread(target=look, name="stop file", daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


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
