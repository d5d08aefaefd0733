"""`train --time`: when a run has to be over, and who looks at the clock."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Timer

import psutil

from cotrain_dist.runtime.collectives import RankGroup, broadcast_json
from cotrain_dist.runtime.stop import STOP

EXIT_SECONDS = 3.0
"""Of processes and launcher, once all is written."""

LAST_EPOCH_SHARE, STOP_SHARE = 0.9, 0.95
"""Of the whole time: no epoch begins that would end after the first; what still runs at the second
is stopped as by a signal, with a commit."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """Moments by this machine's monotonic clock, in seconds."""

    begun_at: float
    """When the command was started."""
    total_seconds: float
    step_one_begins_at: float = math.inf
    step_one_ends_at: float = math.inf
    """Step 1 begins no epoch that would end later, so that Step 2 has its share."""

    def step_one_ends(self, *, is_first_of_two: bool) -> float:
        """The same for one model; of two that a process trains in turn the first has one half."""
        if not is_first_of_two or math.isinf(self.step_one_begins_at):
            return self.step_one_ends_at
        return (self.step_one_begins_at + self.step_one_ends_at) / 2

    @property
    def last_epoch_ends_at(self) -> float:
        """No epoch may end later: models/best has to be chosen after it."""
        return self.begun_at + LAST_EPOCH_SHARE * self.total_seconds - EXIT_SECONDS

    @property
    def stops_at(self) -> float:
        """When a run that still goes on is stopped."""
        return self.begun_at + STOP_SHARE * self.total_seconds - EXIT_SECONDS

    @property
    def left(self) -> float:
        """Seconds that epochs may still take."""
        return self.last_epoch_ends_at - time.monotonic()


def deadline_in(total_seconds: float) -> Deadline:
    """So many seconds after the command was started, by whatever started this process."""
    process = psutil.Process()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # accelerate launch and torchrun: the command is theirs
        process = process.parent() or process
    elapsed = max(0.0, time.time() - process.create_time())
    return Deadline(begun_at=time.monotonic() - elapsed, total_seconds=total_seconds)


def is_over(ends_at: float, seconds: float, group: RankGroup) -> bool:
    """Collective over `group`: whether what takes so many seconds would end too late.

    Its first rank looks at its clock: ranks that disagreed would wait for each other.
    """
    is_late = time.monotonic() + seconds > ends_at if group.index == 0 else None
    return bool(broadcast_json(is_late, group))


@contextmanager
def ends_in_time(deadline: Deadline, name: str) -> Iterator[None]:
    """Within the block, this process is stopped once its time is over; name: of the time given."""
    timer = Timer(max(0.0, deadline.stops_at - time.monotonic()), STOP.ask, (name,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
