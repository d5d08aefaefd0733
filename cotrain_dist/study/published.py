"""The paper's published figures, to stand beside one's own.

Oh, Jeong, Lee, Yoo, Nam: "Synergistic Training: Harnessing Active Learning and Pseudo-Labeling for
Enhanced Model Performance in Deep Learning", WSEAS Transactions on Computers, 2023.
"""

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class PaperTable:
    """One of its tables: accuracy on T in % of A and B by epoch of Step 2."""

    name: str
    title: str
    epochs: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def last(self) -> float:
        """Mean of A and B after the last epoch."""
        return (self.a[-1] + self.b[-1]) / 2


def paper_tables() -> dict[str, PaperTable]:
    """Tables 2, 3 and 4 by number."""
    content = json.loads(files(__package__).joinpath("published.json").read_text())
    return {
        number: PaperTable(
            name=f"Table {number}",
            title=table["title"],
            epochs=tuple(table["epochs"]),
            a=tuple(table["a"]),
            b=tuple(table["b"]),
        )
        for number, table in content.items()
    }
