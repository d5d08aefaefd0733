"""Ending the process from a thread: on a signal of a scheduler, or after a limit.

The main thread may sit inside a collective, where no handler and no exception reaches it.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from cotrain_dist.errors import EXIT_PEER_LOST, EXIT_STOPPED

logger = logging.getLogger(__name__)

# SIGTERM comes from launchers and schedulers, SIGUSR1 from SLURM two minutes before a time limit
# (launch/slurm/train.sbatch).
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

PATIENCE_SECONDS = 25.0
"""How long the steps of an epoch may go on until their commit: launchers kill after 30 s."""


class Stop:
    """Whether this process was asked to stop, and how it ends then.

    Among the steps of an epoch (`patient`) the main thread looks after each few steps, commits and
    calls `end`. Anywhere else nothing waits, since what was committed is whole at any moment.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._is_patient = False
        self._signal = ""

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self._asked.is_set()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Within the block the main thread ends the process soon after a signal, by `end`."""
        before, self._is_patient = self._is_patient, True
        try:
            yield
        finally:
            self._is_patient = before

    def ask(self, number: int) -> None:
        """A signal has come; a second one ends the process at once. Called from another thread."""
        self._signal = signal.Signals(number).name
        if self.is_asked or not self._is_patient:
            self.end()
        self._asked.set()
        timer = threading.Timer(PATIENCE_SECONDS, self.end)
        timer.daemon = True
        timer.start()

    def end(self, what: str = "") -> NoReturn:
        """End the process with one line and EXIT_STOPPED. what: what was committed for it."""
        message = (
            f"rank {os.environ.get('RANK', '0')}: stopped"
            f"{f' by {self._signal}' if self._signal else ' with the other ranks of its model'}; "
            f"{what}go on with train --resume from the last commit"
        )
        logger.error(message)
        print(message, file=sys.stderr, flush=True)
        logging.shutdown()  # os._exit flushes nothing
        os._exit(EXIT_STOPPED)


STOP = Stop()
"""Of this process, as its signals are."""


def end_on_signal() -> None:
    """From now on SIGTERM, SIGUSR1 and SIGUSR2 end the process with one line and EXIT_STOPPED.

    Call from the main thread. A handler in Python would run only after the collective or the step
    that the main thread is in, which may take hours; so a thread hears the signal, through a pipe.
    """
    hearing, telling = os.pipe()
    # set_wakeup_fd refuses an end that may block.
    os.set_blocking(telling, False)
    signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)  # else the default ends the process
    threading.Thread(target=_listen, args=(hearing,), name="stop", daemon=True).start()


def _listen(hearing: int) -> None:
    while True:
        (number,) = os.read(hearing, 1)
        if number in SIGNALS:  # others, such as the keyboard's, have handlers of their own
            STOP.ask(number)


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
