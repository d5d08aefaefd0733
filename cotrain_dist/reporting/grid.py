"""A table of text: for the terminal, for Markdown, for JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cotrain_dist.printable import printable


@dataclass(frozen=True)
class Grid:
    """Title, headings (each another one) and rows of their length."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        assert len(set(self.headings)) == len(self.headings), self.headings  # keys of as_dict

    def to_rich(self) -> Table:
        """For the console."""
        table = Table(title=self.title, title_justify="left")
        for heading in self.headings:
            table.add_column(heading)
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """A heading and a table."""
        lines = [self.headings, ["---"] * len(self.headings), *self.rows]
        table = "\n".join(f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines)
        return f"### {self.title}\n\n{table}\n"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "rows": [dict(zip(self.headings, row, strict=True)) for row in self.rows],
        }


def _escape(cell: str) -> str:
    # Names of classes are cells, and a bar in one would shift the rest of its row.
    return printable(cell).replace("|", "\\|")
