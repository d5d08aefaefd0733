"""The console that tables are printed on."""

from rich.console import Console

WIDE = 1000
"""Columns where there is no terminal: rich would cut tables at 80 in a batch job's log."""


def build_console() -> Console:
    """The terminal, or a file with whole lines."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDE
    return console
