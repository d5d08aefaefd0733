"""Rows of a table that wait for the answer of another one: its column `same_as` names the path."""

from collections.abc import Sequence

from cotrain_dist.config import DataConfig

SAME_AS = "same_as"
"""Empty in the row that is asked about; in the rows of images like it, the path of that row."""


def leaders_of(rows: Sequence[dict[str, str]], config: DataConfig) -> dict[int, int]:
    """For each row that waits for another one, the place of that one; cells as they stand.

    A row that names itself, a row that waits too, or no path of the table stands for itself.
    """
    if SAME_AS in (config.path_column, config.label_column):
        return {}
    asked: dict[str, int] = {}
    for place, row in enumerate(rows):
        if not row.get(SAME_AS):
            asked.setdefault(row[config.path_column], place)
    return {
        place: asked[row[SAME_AS]]
        for place, row in enumerate(rows)
        if row.get(SAME_AS) and row[SAME_AS] in asked
    }


def fill_same(rows: Sequence[dict[str, str]], config: DataConfig) -> list[dict[str, str]]:
    """The rows with one answer for all images that are alike; a row's own label stays its own."""
    filled = [dict(row) for row in rows]
    for place, leader in leaders_of(rows, config).items():
        if not rows[place][config.label_column].strip():
            filled[place][config.label_column] = rows[leader][config.label_column]
    return filled
