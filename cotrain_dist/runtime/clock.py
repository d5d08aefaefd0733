"""Seconds spent in each phase of an epoch, and the memory it took."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Sums wall-clock seconds by phase until they are taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the block's seconds to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            # A phase may come several times in an epoch: T and V are measured one after the other.
            self._seconds[phase] = self._seconds.get(phase, 0.0) + elapsed

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call, rounded to milliseconds."""
        taken = {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}
        self._seconds = {}
        return taken


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held so far: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage counts bytes on macOS and kibibytes on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
