"""history.jsonl: one JSON object a line, appended after every measured epoch."""

import json
import os
from pathlib import Path
from typing import Any


class History:
    """The lines of a run. The lead rank writes; a resume first cuts what was never committed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: dict[str, Any]) -> None:
        """Write one line through to the disk."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, oldest first; a killed run may have left half of one more."""
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def cut_after(self, num_lines: int) -> None:
        """Keep the first lines alone: a killed run may have written one more than it committed."""
        if not self._path.exists():
            return
        lines = self._path.read_text().splitlines(keepends=True)
        if len(lines) > num_lines:
            beside = self._path.with_suffix(".tmp")
            beside.write_text("".join(lines[:num_lines]))
            beside.rename(self._path)
