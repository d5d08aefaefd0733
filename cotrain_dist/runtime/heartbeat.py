"""Notice a lost rank while nobody communicates.

Within an epoch the roles do not meet, so a collective of one role says nothing about the other. A
thread of each rank writes a counter to the launcher's key-value store and watches the others'. A
rank that ends with an error says so there, since its process may live on, in a notebook.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch.distributed as dist

from cotrain_dist.errors import (
    EXIT_PEER_LOST,
    EXIT_USER_ERROR,
    PeerLostError,
    PeerUserError,
    UserError,
)

logger = logging.getLogger(__name__)

LEFT = "left: "
"""What a rank writes in place of its counter when it ends with an error."""

MISTAKES = tuple(f"{kind.__name__}: " for kind in (UserError, PeerUserError))
"""How the reason of a rank begins that a user's mistake has ended."""

GRACE_SECONDS = 1.0
"""How long a rank that hears so may take to end on its own: an error may be all ranks' at once."""


class Heartbeat:
    """Beats and watches until `stop`; ends the process with EXIT_PEER_LOST when a rank is silent.

    A thread cannot interrupt a collective, so it ends the process; epochs are committed already.
    """

    def __init__(self, global_rank: int, labels: Sequence[str], lost_after_seconds: float) -> None:
        self._rank, self._labels = global_rank, list(labels)
        self._lost_after = lost_after_seconds
        # Several beats within the limit, so that one late beat makes nobody lost.
        self._interval = min(lost_after_seconds / 5, 5.0)
        self.undo: Callable[[], None] = lambda: None
        """Called where another rank was ended by a user's mistake, before this process ends."""
        self._stopped = threading.Event()
        self._beats = 0
        # An own connection: the default group's store is not public and may block in a rendezvous.
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=lost_after_seconds),
        )
        # At once: the others ask for this key when they first look, and would wait for it.
        self._beat()
        self._last_answer = time.monotonic()
        self._threads = [
            threading.Thread(target=target, name="heartbeat", daemon=True)
            for target in (self._run, self._guard)
        ]

    def start(self) -> None:
        """Begin to watch; every rank must have been built by then."""
        self._last_answer = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopped.set()
        for thread in self._threads:
            # With a limit: over a dead link, a call to the store never returns.
            thread.join(timeout=self._lost_after)

    def leave(self, why: str) -> None:
        """End the threads and tell the others that this rank has ended with an error.

        They end as well, since they may wait for it. The store lives in rank 0's process, which
        stays a moment, so that they can hear it.
        """
        self.stop()
        try:
            # In place of the counter, and after the threads have ended: a beat would write over it.
            self._store.set(self._key(self._rank), LEFT + why)
            if self._rank == 0:
                others = [self._key(rank) for rank in range(1, len(self._labels))]
                self._wait_until_left(others)
        except dist.DistError:  # the store is gone, and so are those who could hear
            pass

    def _wait_until_left(self, keys: list[str]) -> None:
        limit = time.monotonic() + self._interval + 2 * GRACE_SECONDS
        while time.monotonic() < limit:
            if all(value.startswith(LEFT.encode()) for value in self._store.multi_get(keys)):
                return
            time.sleep(0.05)

    def _key(self, rank: int) -> str:
        return f"cotrain_dist/beat/{rank}"

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(self._key(self._rank), str(self._beats))

    def _run(self) -> None:
        keys = [self._key(rank) for rank in range(len(self._labels))]
        last_values: list[bytes] = [b""] * len(keys)
        last_seen = [time.monotonic()] * len(keys)
        while not self._stopped.wait(self._interval):
            try:
                self._beat()
                values = self._store.multi_get(keys)
            except dist.DistError as error:
                if not self._stopped.is_set():
                    self._give_up(f"the store of rank 0's node ({self._labels[0]})", str(error))
                return
            self._last_answer = now = time.monotonic()
            for rank, value in enumerate(values):
                if value.startswith(LEFT.encode()):
                    self._hear(rank, value.decode().removeprefix(LEFT))
                # That a counter has changed is noted by this rank's clock; those of two nodes may
                # differ.
                elif value != last_values[rank]:
                    last_values[rank], last_seen[rank] = value, now
                elif now - last_seen[rank] > self._lost_after and not self._stopped.is_set():
                    self._give_up(self._labels[rank], "no sign of life")

    def _hear(self, rank: int, why: str) -> None:
        """Another rank has ended with an error: end, unless this one does so by itself."""
        if self._stopped.wait(GRACE_SECONDS):
            return
        error = self._error_of(rank, why)
        if isinstance(error, UserError):
            self.undo()
            self._end(f"error: {error}", EXIT_USER_ERROR)
        self._end(str(error), EXIT_PEER_LOST)

    def _error_of(self, rank: int, why: str) -> PeerLostError | PeerUserError:
        """The error here for one that has ended another rank."""
        if why.startswith(MISTAKES):
            text = why.partition(": ")[2].splitlines()[0]
            return PeerUserError(f"{self._labels[rank]} has met a mistake: {text}")
        return PeerLostError(self._loss(self._labels[rank], f"it ended with an error: {why}"))

    def _guard(self) -> None:
        """Watch the other thread: over a dead link, the store's own time limit waits for ever."""
        while not self._stopped.wait(self._interval):
            if time.monotonic() - self._last_answer > self._lost_after + self._interval:
                self._give_up(f"the store of rank 0's node ({self._labels[0]})", "no answer")

    def peer_that_left(self) -> PeerLostError | PeerUserError | None:
        """An error about another rank that has ended with one; None where none says so.

        For a rank whose collective has failed: gloo tells of a closed connection alone.
        """
        others = [rank for rank in range(len(self._labels)) if rank != self._rank]
        try:
            values = self._store.multi_get([self._key(rank) for rank in others])
        except dist.DistError:
            return None
        for rank, value in zip(others, values, strict=True):
            if value.startswith(LEFT.encode()):
                return self._error_of(rank, value.decode().removeprefix(LEFT))
        return None

    def _loss(self, what: str, why: str) -> str:
        return (
            f"{self._labels[self._rank]}: lost {what} ({why.splitlines()[0]}; "
            f"distributed.lost_after_seconds is {self._lost_after:g}). Ending; go on with "
            "train --resume from the last committed epoch."
        )

    def _give_up(self, what: str, why: str) -> None:
        self._end(self._loss(what, why), EXIT_PEER_LOST)

    def _end(self, message: str, code: int) -> None:
        logger.error(message)
        print(message, file=sys.stderr, flush=True)
        logging.shutdown()  # os._exit flushes nothing
        # sys.exit would end this thread alone, and the main thread may sit in a collective for
        # ever.
        os._exit(code)
