"""Live progress on the lead rank: bars on a terminal, plain lines elsewhere; all of it logged."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.text import Text

from cotrain_dist.printable import printable
from cotrain_dist.runtime.standstill import Progress

logger = logging.getLogger(__name__)

WIDE = 1000
"""Columns where there is no terminal: rich would cut tables at 80 in a batch job's log."""


class _SafeConsole(Console):
    """Shows what is in files and names, and does nothing that they say."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's, with the control characters of all texts as escapes."""
        # Here and not where tables are made: none can be forgotten. Rich's own codes, of bars, are
        # segments of another kind, and line ends stand alone.
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                text = "\n".join(map(printable, segment.text.split("\n")))
                yield Segment(text, segment.style)


def build_console() -> Console:
    """The terminal, or a file with whole lines."""
    # No markup and no emoji: paths and class names may hold square brackets and colons, which rich
    # would take for tags and for pictures.
    console = _SafeConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def warn_early(line: str) -> None:
    """One warning where there is no reporter yet: on one rank, whatever it shows later."""
    logger.warning(line)
    print(f"warning: {printable(line)}", file=sys.stderr, flush=True)


class _ImagesPerSecond(TextColumn):
    """Speed of a pass."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """The measured speed, or nothing before the first batch."""
        return Text(f"{task.speed:.0f} images/s" if task.speed else "")


class Reporter:
    """Shows what this rank does. `show`: on the lead rank; the others write their log alone.

    progress: told of all that a bar shows, also where none is shown.
    """

    def __init__(self, show: bool, progress: Progress | None = None) -> None:
        self._progress = progress or Progress()
        self._console = build_console() if show else None
        self._last = ""
        self._warned: set[str] = set()

    def say(self, line: str, *, shown: bool = True) -> None:
        """One line for people: the log and, where shown, the console."""
        logger.info(line)
        if self._console is not None and shown:
            # Whole lines: a log file of a batch job is no 80-column terminal.
            self._console.print(printable(line), soft_wrap=True)

    def warn(self, line: str) -> None:
        """One warning; on the console once, however many epochs repeat it."""
        logger.warning(line)
        if self._console is not None and line not in self._warned:
            self._warned.add(line)
            self._console.print(f"warning: {printable(line)}", soft_wrap=True)

    def remember(self, line: str) -> None:
        """What every later bar shows behind it, such as the last accuracies."""
        self._last = line

    def print(self, renderable: object) -> None:
        """A table, on the lead rank."""
        if self._console is not None:
            self._console.print(renderable)

    @contextmanager
    def track(self, what: str, num_images: int) -> Iterator[Callable[[int], None]]:
        """A bar over `num_images`; the block calls what it gets with the images just done."""
        self._progress.note(what)
        if self._console is None or not self._console.is_terminal:
            yield lambda num_done: self._progress.note(what)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _ImagesPerSecond(),
            TimeRemainingColumn(),
            TextColumn(self._last, markup=False),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(what, total=num_images)

            def advance(num_done: int) -> None:
                self._progress.note(what)
                bars.advance(task, num_done)

            yield advance
