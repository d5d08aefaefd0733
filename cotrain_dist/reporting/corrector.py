"""A run's gallery on a page of this machine, where a person answers what an image shows.

The answers go to a table that `train --recycle RUN --extra-labels` takes, so only what that command
takes is an answer here: a class of the run and, where the data have a label, that one.
"""

from pathlib import Path
from typing import Any

from cotrain_dist.config import Config
from cotrain_dist.data.answers import Answers
from cotrain_dist.errors import UserError
from cotrain_dist.inference.queue import Asked, write_queue
from cotrain_dist.inference.seen import Seen, Tile
from cotrain_dist.printable import printable
from cotrain_dist.reporting.annotator import Annotator
from cotrain_dist.reporting.page import KINDS

SIDE = 320
"""Longest side of an image in pixels: larger than in a report, since a person is to decide."""


def open_answers(file: Path, seen: Seen, config: Config) -> Answers:
    """The table with a row for each image of the gallery; answers that stand in it stay.

    Raises UserError where `file` is another table.
    """
    paths = list(dict.fromkeys(tile.path for tile in seen.tiles))
    if not file.exists():
        write_queue(Asked(paths, len(paths)), config, file)
    answers = Answers(file, config.data)
    answers.add(paths)
    return answers


class Corrector(Annotator):
    """The server of a gallery."""

    template = "gallery.html.jinja"

    def __init__(self, answers: Answers, seen: Seen, port: int = 0) -> None:
        """answers: of `open_answers`. port: 0 for any that is free."""
        rows = {path: row for row, path in enumerate(answers.paths)}
        self.tiles: dict[int, Tile] = {}  # in the order of the gallery
        self.kinds: dict[int, list[str]] = {}
        for tile in seen.tiles:
            row = rows[tile.path]
            self.tiles.setdefault(row, tile)
            self.kinds.setdefault(row, []).append(tile.kind)
        super().__init__(answers, Path(), seen.class_names, port)

    def find_files(self, folder: Path) -> list[Path]:
        """None: images may come from a data set that has no files."""
        return []

    def state(self) -> dict[str, Any]:
        """For the page: the images with their answers and votes, and the names to filter by."""
        labels = self.answers.labels
        used = {kind for kinds in self.kinds.values() for kind in kinds}
        return {
            "rows": [
                _shown(tile) | {"row": row, "kinds": self.kinds[row], "label": labels[row]}
                for row, tile in self.tiles.items()
            ],
            "classes": self.class_names,
            "kinds": {kind: name for kind, name in KINDS.items() if kind in used},
        }

    def objection(self, row: int, label: str) -> str:
        """What `train --recycle` would refuse."""
        tile = self.tiles.get(row)
        if tile is None:
            return "this image is not in the gallery any more: reload the page"
        if not label or label == tile.truth:
            return ""
        if label not in self.class_names:
            return f"the run has no class {printable(label)}: train a new run for a new class"
        if tile.truth is not None:
            return f"the data call this image {printable(tile.truth)}: correct it there"
        return ""

    def image(self, row: int, size: str) -> bytes:
        """A JPEG of a row's image; of one size."""
        return self.tiles[row].jpeg


def _shown(tile: Tile) -> dict[str, Any]:
    return {
        "path": printable(tile.path),
        "truth": tile.truth,
        "a": tile.label_a,
        "b": tile.label_b,
        "percent_a": round(100.0 * tile.confidence_a),
        "percent_b": round(100.0 * tile.confidence_b),
    }


def require_tiles(seen: Seen, run: Path) -> None:
    """Raise UserError where a run has no image to show."""
    if not seen.tiles:
        way_out = "a run with images that have no label has a gallery"
        raise UserError("RUN", run, "has no image without a label", way_out)
