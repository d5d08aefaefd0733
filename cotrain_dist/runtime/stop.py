"""Ending in order on a signal: a scheduler's warning, a preemption, a cancelled job."""

import logging
import os
import signal
import sys
import threading

from cotrain_dist.errors import EXIT_STOPPED

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def end_on_signal() -> None:
    """From now on SIGTERM and SIGUSR1 end the process with one line and EXIT_STOPPED.

    Call from the main thread. A handler in Python would run only after the collective or the step
    that the main thread is in, which may take hours; so a thread hears the signal, through a pipe,
    and ends the process. What was committed is whole at any moment, so nothing waits.
    """
    hearing, telling = os.pipe()
    os.set_blocking(telling, False)
    signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)  # else the default ends the process
    threading.Thread(target=_listen, args=(hearing,), name="stop", daemon=True).start()


def _listen(hearing: int) -> None:
    while True:
        (number,) = os.read(hearing, 1)
        if number in SIGNALS:
            break  # others, such as the keyboard's, have handlers of their own
    message = (
        f"rank {os.environ.get('RANK', '0')}: stopped by {signal.Signals(number).name}; "
        "go on with train --resume from the last committed epoch"
    )
    logger.error(message)
    print(message, file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(EXIT_STOPPED)
