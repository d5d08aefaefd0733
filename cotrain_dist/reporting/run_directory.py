"""The run directory: where everything of a run lies (docs/run-directory.md)."""

import fcntl
import json
import logging
import secrets
from pathlib import Path
from typing import Any, TextIO

from cotrain_dist.data.groups import GROUPS_FILE
from cotrain_dist.errors import UserError
from cotrain_dist.reporting.history import History

UNFINISHED = {"lock", "config.yaml", GROUPS_FILE, "run.json.tmp"}
"""Files of a run directory before it counts as a run."""


class RunDirectory:
    """Paths and small files of one run. Building one touches no disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.groups = path / GROUPS_FILE
        self.checkpoints = path / "checkpoints"
        self.models = path / "models"
        self.history = History(path / "history.jsonl")
        self._lock: TextIO | None = None

    @property
    def run_id(self) -> str:
        """Name that the run was given when it was made; checkpoints carry it."""
        return str(self.read_json("run.json")["run_id"])

    @property
    def attempt(self) -> int:
        """1 for the first start, one more with every resume."""
        return int(self.read_json("run.json")["attempt"])

    def create(self, config_yaml: str, groups: bytes) -> None:
        """Make the directory with its settings and groups.parquet.

        Raises UserError where anything lies there: nothing is replaced. run.json comes last: with
        it the directory counts as a run, and what a kill before has left is written anew.
        """
        if self.path.exists() and not self._is_free():
            raise UserError(
                "output_dir",
                self.path,
                "exists already and is never written over",
                f"go on with it (train --resume {self.path}), name another directory, or delete it",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock()
        self.config.write_text(config_yaml)
        self.groups.write_bytes(groups)
        self.write_json("run.json", {"run_id": secrets.token_hex(8), "attempt": 1})

    def _is_free(self) -> bool:
        """Whether nothing lies here, or a run that was killed while it was being made."""
        if not self.path.is_dir():
            return False
        names = {entry.name for entry in self.path.iterdir()}
        return not names or ("lock" in names and names <= UNFINISHED)

    def open_again(self) -> None:
        """Take the directory for a resume."""
        self.check_is_run()
        self.lock()
        self.write_json("run.json", self.read_json("run.json") | {"attempt": self.attempt + 1})

    def is_run(self) -> bool:
        """Whether a run lies here."""
        return self.config.is_file() and (self.path / "run.json").is_file()

    def is_finished(self) -> bool:
        """Whether a training has come to its end here."""
        return self.is_run() and bool(self.read_json("run.json").get("finished"))

    def is_in_use(self) -> bool:
        """Whether a training holds the directory; writes nothing."""
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:  # no run, or a copy of one
            pass
        return False

    def check_is_run(self) -> None:
        """Raise UserError unless a run lies here."""
        if not self.is_run():
            raise UserError(
                "--resume",
                self.path,
                "is no run directory",
                "name the output_dir of an earlier train",
            )

    def lock(self) -> None:
        """Hold the directory until this process ends. Raises UserError if another one does."""
        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "output_dir",
                self.path,
                "is in use by a training that still runs",
                "wait for it or end it",
            ) from error

    def unlock(self) -> None:
        """Give the directory free."""
        if self._lock is not None:
            self._lock.close()

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file whole."""
        beside = self.path / f"{name}.tmp"
        beside.write_text(json.dumps(value, indent=1) + "\n")
        beside.rename(self.path / name)

    def read_json(self, name: str) -> Any:
        """Read a small file."""
        return json.loads((self.path / name).read_text())

    def start_log(self, global_rank: int) -> None:
        """Send this process's log lines to logs/rank-NNN.log, after those of earlier attempts."""
        folder = self.path / "logs"
        folder.mkdir(exist_ok=True)
        handler = logging.FileHandler(folder / f"rank-{global_rank:03d}.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        stop_log()  # of an earlier training in this process
        package = logging.getLogger("cotrain_dist")
        package.addHandler(handler)
        package.setLevel(logging.INFO)


def stop_log() -> None:
    """Close this process's log file, if it has one."""
    package = logging.getLogger("cotrain_dist")
    for handler in [h for h in package.handlers if isinstance(h, logging.FileHandler)]:
        package.removeHandler(handler)
        handler.close()
