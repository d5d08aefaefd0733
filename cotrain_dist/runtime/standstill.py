"""Whether the thread that trains gets on, and where it stands: what else a beat says.

A thread that beats proves that its process lives. One that reads from a dead file system, waits for
a hung worker or for a driver lives as well; so a beat also carries what was done so far.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"

DISTRIBUTED = "/torch/distributed/"
"""Where a thread stands that waits in a collective: those it waits for have to get on."""

BACKWARD = " (backward pass)"
"""Behind a place within autograd, where DDP waits, unseen, for the others of a role."""


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself."""

    number: int
    is_expected: bool
    """Whether it should get on right now."""
    num_done: int
    where: str = ""

    def pack(self) -> str:
        """As it stands in the store."""
        return f"{self.number} {int(self.is_expected)} {self.num_done} {self.where}"

    @classmethod
    def parse(cls, value: bytes) -> "Beat":
        """What `pack` gave."""
        number, is_expected, num_done, where = value.decode().split(" ", 3)
        return cls(int(number), is_expected == "1", int(num_done), where)


class Progress:
    """Counts steps and chunks. Nothing is expected outside of `expected`, or within `excused`."""

    def __init__(self) -> None:
        self._num_done, self._is_expected = 0, False
        self._what = "nothing yet"
        self._thread = 0

    def note(self, what: str) -> None:
        """Something was done, or begins: a step, a chunk."""
        self._num_done += 1
        self._what = what

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Within the block this thread gets on, or waits in a collective for another that does."""
        self._thread = threading.get_ident()
        with self._set_expected(True):
            yield

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Within the block there is one long piece of work that notes nothing."""
        with self._set_expected(False):
            yield
        self.note(self._what)

    @contextmanager
    def _set_expected(self, value: bool) -> Iterator[None]:
        before, self._is_expected = self._is_expected, value
        try:
            yield
        finally:
            self._is_expected = before

    def beat(self, number: int) -> Beat:
        """How it stands now; called from another thread."""
        if not self._is_expected:
            return Beat(number, False, self._num_done)
        place, is_waiting = _place_of(sys._current_frames().get(self._thread))
        where = f"last seen at `{self._what}`, now in {place}"
        return Beat(number, not is_waiting, self._num_done, where)


def _place_of(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost line of this package that a thread stands in, and whether in a collective."""
    is_waiting, suffix = False, ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return f"{file[len(PACKAGE) :]}:{frame.f_lineno}{suffix}", is_waiting
        is_waiting |= DISTRIBUTED in file
        suffix = BACKWARD if "/torch/autograd/" in file else suffix
        frame = frame.f_back
    return "other code", is_waiting
