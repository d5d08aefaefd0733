"""Notice a lost rank while nobody communicates.

Within an epoch the roles do not meet, so a collective of one role says nothing about the other. A
thread of each rank writes a counter to the launcher's key-value store and watches the others'. A
rank that ends with an error says so there, since its process may live on, in a notebook. A rank
that lives but does not get on is named as well (`standstill.py`).
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist

from cotrain_dist.config.running import DistributedConfig
from cotrain_dist.errors import (
    EXIT_FAILED,
    EXIT_PEER_LOST,
    EXIT_USER_ERROR,
    PeerLostError,
    PeerUserError,
    TrainingError,
    UserError,
)
from cotrain_dist.runtime.standstill import BACKWARD, Beat, Progress
from cotrain_dist.runtime.stop import A_REQUEST, STOP

logger = logging.getLogger(__name__)

LEFT = "left: "
"""What a rank writes in place of its counter when it ends with an error."""

MISTAKES = tuple(f"{kind.__name__}: " for kind in (UserError, PeerUserError))
"""How the reason of a rank begins that a user's mistake has ended."""

FAILED = f"{TrainingError.__name__}: "
"""How the reason of a rank begins whose training cannot go on: by a loss that is NaN, say."""

VERDICT = "verdict: "
"""How the reason of a rank begins that gives up another: all ranks then name the same one."""

STOPPED = "stopped: "
"""How the reason of a rank begins that was asked to stop: all ranks then stop in the same way."""

GO_ON = "Ending; go on with train --resume from the last commit."

GRACE_SECONDS = 1.0
"""How long a rank that hears so may take to end on its own: an error may be all ranks' at once."""


@dataclass
class _Seen:
    """What this rank has seen of one rank, by its own clock: those of two nodes may differ."""

    value: bytes = b""
    beat: Beat = field(default_factory=lambda: Beat(0, False, 0))
    beat_at: float = field(default_factory=time.monotonic)
    moved_at: float = field(default_factory=time.monotonic)
    """When it last got on, or had no need to."""

    def look(self, value: bytes, now: float) -> None:
        """Note a value of the store."""
        if value == self.value:
            return
        beat = Beat.parse(value)
        if not beat.is_expected or beat.num_done != self.beat.num_done:
            self.moved_at = now
        self.value, self.beat, self.beat_at = value, beat, now

    def forgive(self, seconds: float) -> None:
        """A while in which nobody listened does not count."""
        self.beat_at += seconds
        self.moved_at += seconds


class Heartbeat:
    """Beats and watches until `stop`; ends the process with EXIT_PEER_LOST when a rank is lost.

    A thread cannot interrupt a collective, so it ends the process; epochs are committed already.
    """

    def __init__(
        self,
        global_rank: int,
        labels: Sequence[str],
        limits: DistributedConfig,
        progress: Progress,
    ) -> None:
        self._rank, self._labels = global_rank, list(labels)
        self.lost_after_seconds = limits.lost_after_seconds
        self._stalled_after, self._progress = limits.stalled_after_seconds, progress
        # Several beats within the limit, so that one late beat makes nobody lost.
        self._interval = min(self.lost_after_seconds / 5, 5.0)
        self.undo: Callable[[], None] = lambda: None
        """Called where another rank was ended by a user's mistake, before this process ends."""
        self._stopped, self._beating = threading.Event(), threading.Lock()
        self._beats = 0
        self._has_heard = False
        # An own connection: the default group's store is not public and may block in a rendezvous.
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=self.lost_after_seconds),
        )
        # At once: the others ask for this key when they first look, and would wait for it.
        self._beat()
        self._last_answer = time.monotonic()
        self._threads = [
            threading.Thread(target=target, name="heartbeat", daemon=True)
            for target in (self._run, self._guard)
        ]

    @property
    def label(self) -> str:
        """Rank, role and node, as this process is named to people."""
        return self._labels[self._rank]

    def start(self) -> None:
        """Begin to watch; every rank must have been built by then."""
        self._last_answer = time.monotonic()
        STOP.tell, STOP.let_hear = self._tell_stop, self._let_hear_stop
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        STOP.tell, STOP.let_hear = (lambda by: None), (lambda: None)
        self._stopped.set()
        for thread in self._threads:
            # With a limit: over a dead link, a call to the store never returns.
            thread.join(timeout=self.lost_after_seconds)

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
                self._wait_until_left(
                    range(1, len(self._labels)), self._interval + 2 * GRACE_SECONDS
                )
        except dist.DistError:  # the store is gone, and so are those who could hear
            pass

    def _tell_stop(self, by: str) -> None:
        """Tell the others that this rank is asked to stop, and watch no more: it ends in seconds.

        by: what has asked. Called from any thread.
        """
        self._stopped.set()
        told = by if self._has_heard else f"{by} to {self.label}"
        with self._beating, contextlib.suppress(dist.DistError):
            self._store.set(self._key(self._rank), LEFT + STOPPED + told)

    def _let_hear_stop(self) -> None:
        """The store lives in rank 0's process: there, wait until all others have heard."""
        if self._rank == 0:
            with contextlib.suppress(dist.DistError):
                limit = self._interval + 2 * GRACE_SECONDS
                self._wait_until_left(range(1, len(self._labels)), limit)

    def _wait_until_left(self, ranks: Iterable[int], limit_seconds: float) -> None:
        keys = [self._key(rank) for rank in ranks]
        if not keys:  # the store answers nothing to that
            return
        limit = time.monotonic() + limit_seconds
        while time.monotonic() < limit:
            if all(value.startswith(LEFT.encode()) for value in self._store.multi_get(keys)):
                return
            time.sleep(0.05)

    def _key(self, rank: int) -> str:
        return f"cotrain_dist/beat/{rank}"

    def _beat(self) -> None:
        with self._beating:
            if not self._stopped.is_set():  # else it would write over the word of the end
                self._beats += 1
                self._store.set(self._key(self._rank), self._progress.beat(self._beats).pack())

    def _run(self) -> None:
        keys = [self._key(rank) for rank in range(len(self._labels))]
        seen = [_Seen() for _ in keys]
        while (overslept := self._sleep()) is not None:
            for other in seen:
                other.forgive(overslept)
            try:
                self._beat()
                values = self._store.multi_get(keys)
            except dist.DistError as error:
                if not self._stopped.is_set():
                    self._lose_store(str(error))
                return
            self._last_answer = now = time.monotonic()
            for rank, why in _left(enumerate(values)):
                self._hear(rank, why)
            for rank, value in enumerate(values):
                if not value.startswith(LEFT.encode()):
                    seen[rank].look(value, now)
            if not self._stopped.is_set():
                self._judge(seen, now)

    def _sleep(self) -> float | None:
        """Until the next beat; None at the end, else seconds that this process itself was stopped.

        A scheduler that suspends a job stops all its ranks: who wakes up first has heard nobody.
        """
        started = time.monotonic()
        if self._stopped.wait(self._interval):
            return None
        overslept = time.monotonic() - started - self._interval
        return overslept if overslept > self._interval else 0.0

    def _judge(self, seen: Sequence[_Seen], now: float) -> None:
        """Give up where a rank has been silent, or has not got on, for too long."""
        for rank, other in enumerate(seen):
            if now - other.beat_at > self.lost_after_seconds:
                self._give_up({rank}, self._loss(self._labels[rank], "no sign of life"))
        idle = [
            rank
            for rank, other in enumerate(seen)
            if other.beat.is_expected and now - other.moved_at > self._limit_of(other.beat)
        ]
        if idle:
            named = [f"{self._labels[rank]}, {seen[rank].beat.where}" for rank in idle]
            self._give_up(set(), self._standstill("; ".join(named)))

    def _limit_of(self, beat: Beat) -> float:
        """Longer for a rank in the backward pass, where it may wait for another of its role.

        That one is then named alone, though both have stopped in the same step.
        """
        is_backward = beat.where.endswith(BACKWARD)
        return self._stalled_after + is_backward * (0.1 * self._stalled_after + 3 * self._interval)

    def _hear(self, rank: int, why: str) -> None:
        """Another rank has ended with an error: end, unless this one does so by itself."""
        if why.startswith(STOPPED):
            self._stop_as_well(why)
            return
        is_verdict = why.startswith(VERDICT)  # no rank ends that by itself
        if self._stopped.wait(0.0 if is_verdict else GRACE_SECONDS):
            return
        error = self._error_of(rank, why)
        if isinstance(error, UserError):
            self.undo()
            self._end(f"error: {error}", EXIT_USER_ERROR)
        if is_verdict:
            # For this rank's main thread and others, whose collectives may fail before they hear.
            with contextlib.suppress(dist.DistError):
                self._store.set(self._key(self._rank), LEFT + why)
                if self._rank == 0:  # the store ends with this process
                    others = range(1, len(self._labels))
                    self._wait_until_left(others, self._interval + 2 * GRACE_SECONDS)
        is_lost = isinstance(error, PeerLostError)
        self._end(str(error), EXIT_PEER_LOST if is_lost else EXIT_FAILED)

    def _stop_as_well(self, why: str) -> None:
        self._has_heard = True
        STOP.ask(why.removeprefix(STOPPED))

    def _error_of(self, rank: int, why: str) -> TrainingError | PeerUserError:
        """The error here for one that has ended another rank."""
        if why.startswith(MISTAKES):
            text = why.partition(": ")[2].splitlines()[0]
            return PeerUserError(f"{self._labels[rank]} has met a mistake: {text}")
        if why.startswith(FAILED):
            text = why.removeprefix(FAILED)
            return TrainingError(self._own(f"the training of {self._labels[rank]} failed: {text}"))
        if why.startswith(VERDICT):
            return PeerLostError(self._own(why.removeprefix(VERDICT)))
        return PeerLostError(
            self._own(self._loss(self._labels[rank], f"it ended with an error: {why}"))
        )

    def _guard(self) -> None:
        """Watch the other thread: over a dead link, the store's own time limit waits for ever."""
        while (overslept := self._sleep()) is not None:
            self._last_answer += overslept
            if time.monotonic() - self._last_answer > self.lost_after_seconds + self._interval:
                self._lose_store("no answer")

    def watch_on(self) -> None:
        """Let the threads look at all ranks twice more; they may end the process."""
        self._stopped.wait(2 * self._interval + GRACE_SECONDS)

    def peer_that_left(self) -> TrainingError | PeerUserError | None:
        """An error about another rank that has ended with one; None where none says so.

        For a rank whose collective has failed: gloo tells of a closed connection alone. Where the
        other one was asked to stop, this one is as well.
        """
        others = [rank for rank in range(len(self._labels)) if rank != self._rank]
        try:
            values = self._store.multi_get([self._key(rank) for rank in others])
        except dist.DistError:
            return None
        for rank, why in _left(zip(others, values, strict=True)):
            if why.startswith(STOPPED):
                self._stop_as_well(why)
            return self._error_of(rank, why)
        return None

    def _loss(self, what: str, why: str) -> str:
        return (
            f"lost {what} ({why.splitlines()[0]}; "
            f"distributed.lost_after_seconds is {self.lost_after_seconds:g}). {GO_ON}"
        )

    def _standstill(self, named: str) -> str:
        return (
            f"nothing was done for {self._stalled_after:g} s "
            f"(distributed.stalled_after_seconds) by {named}. {GO_ON}"
        )

    def _own(self, text: str) -> str:
        return f"{self.label}: {text}"

    def _lose_store(self, why: str) -> None:
        """End without the others, who cannot be told."""
        what = f"the store of rank 0's node ({self._labels[0]})"
        self._end(self._own(self._loss(what, why)), EXIT_PEER_LOST)

    def _give_up(self, silent: set[int], text: str) -> None:
        """End, and let all ranks end for the same reason: each would else name the next to end."""
        _say(self._own(text))
        try:
            self._store.set(self._key(self._rank), LEFT + VERDICT + text)
            if self._rank == 0:  # the store ends with this process, and some may hear late
                others = set(range(1, len(self._labels))) - silent
                self._wait_until_left(others, self._interval + self.lost_after_seconds)
        except dist.DistError:
            pass
        _exit(EXIT_PEER_LOST)

    def _end(self, message: str, code: int) -> None:
        if STOP.is_asked:  # as the others were: this rank commits, or ends within seconds
            return
        _say(message)
        _exit(code)


def _left(values: Iterable[tuple[int, bytes]]) -> list[tuple[int, str]]:
    """The ranks that have ended with an error, and why; those with a verdict come first.

    >>> _left([(0, b"left: OSError"), (1, b"3 1 9 here"), (2, b"left: verdict: lost rank 1")])
    [(2, 'verdict: lost rank 1'), (0, 'OSError')]
    >>> _left([(1, b"left: stopped: a request to rank 1"), (2, b"left: stopped: SIGTERM")])
    [(2, 'stopped: SIGTERM'), (1, 'stopped: a request to rank 1')]
    """
    # Who ends by another's verdict may say in its own words that it has ended; and who stops with
    # its model, without having heard why, does not know what has asked.
    ended = [
        (rank, value.decode().removeprefix(LEFT))
        for rank, value in values
        if value.startswith(LEFT.encode())
    ]
    return sorted(
        ended, key=lambda item: (not item[1].startswith(VERDICT), (STOPPED + A_REQUEST) in item[1])
    )


def _say(message: str) -> None:
    logger.error(message)
    print(message, file=sys.stderr, flush=True)


def _exit(code: int) -> None:
    logging.shutdown()  # os._exit flushes nothing
    # sys.exit would end this thread alone, and the main thread may sit in a collective for ever.
    os._exit(code)
