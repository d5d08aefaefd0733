"""history.jsonl: one JSON object per line, appended after every measured epoch."""

import hashlib
import json
import os
from pathlib import Path

from cotrain_dist.errors import UserError
from cotrain_dist.store import atomic
from cotrain_dist.store.records import CotrainRecord, PretrainRecord, Record, record_from_json


class History:
    """The lines of a run. The lead rank writes; a resume first cuts what was never committed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Record) -> None:
        """Write one line through to the disk."""
        with atomic.naming(self._path), self._path.open("a") as file:
            file.write(json.dumps(record.to_json()) + "\n")
            # Before the commit that counts this line: a history that is shorter than its commit is
            # refused.
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Record]:
        """All whole lines, oldest first; a killed run may have left half of one more.

        Raises UserError naming a line that is no record.
        """
        records = []
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                records.append(record_from_json(json.loads(line)))
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(
                    "history",
                    f"{self._path}, line {number}",
                    f"is damaged ({type(error).__name__}: {' '.join(str(error).split())})",
                    "restore the file from a copy, or start a new run",
                ) from error
        return records

    def pretrain(self) -> list[PretrainRecord]:
        """The epochs of Step 1 of both models."""
        return [record for record in self.read() if isinstance(record, PretrainRecord)]

    def cotrain(self) -> list[CotrainRecord]:
        """The epochs of Step 2, its start as epoch 0."""
        return [record for record in self.read() if isinstance(record, CotrainRecord)]

    def num_lines(self) -> int:
        """How many whole lines there are."""
        return len(self._whole_lines())

    def cut_after(self, num_lines: int) -> None:
        """Keep the first lines alone: a killed run may have written one more than it committed.

        Raises UserError where there are fewer: a shortened file would choose the best model wrong.
        """
        self.check(num_lines, None)
        if self._path.exists():
            kept = self._whole_lines()[:num_lines]
            atomic.write_text(self._path, "".join(f"{line}\n" for line in kept))

    def digest(self, num_lines: int) -> str:
        """SHA-256 of the first lines."""
        text = "".join(f"{line}\n" for line in self._whole_lines()[:num_lines])
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    def check(self, num_lines: int, digest: str | None) -> None:
        """Raise UserError where the first lines are not all there, or not those of a digest."""
        lines = self._whole_lines()
        if digest is not None and len(lines) >= num_lines and self.digest(num_lines) != digest:
            self.read()  # names the line, where it can be told
            raise UserError(
                "history",
                self._path,
                f"is damaged: the SHA-256 of its first {num_lines} line(s) is not the commit's",
                "restore the file from a copy, or start a new run",
            )
        if len(lines) < num_lines:
            raise UserError(
                "history",
                self._path,
                f"has {len(lines)} whole line(s), the last commit was made after {num_lines}",
                "restore the file from a copy, or start a new run",
            )

    def _whole_lines(self) -> list[str]:
        if not self._path.exists():
            return []
        # A flipped bit may be no UTF-8; the line that holds it is then no JSON and is named.
        whole, _, _ = self._path.read_text(errors="replace").rpartition("\n")
        return whole.split("\n") if whole else []
