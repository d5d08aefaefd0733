"""The run directory: where everything of a run lies (docs/run-directory.md)."""

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cotrain_dist.config.places import UNFINISHED, check_output_dir, is_unfinished
from cotrain_dist.errors import PeerLostError, UserError
from cotrain_dist.printable import printable
from cotrain_dist.store import atomic
from cotrain_dist.store.history import History
from cotrain_dist.store.locks import can_lock, take_over, why_no_locks, writing_as
from cotrain_dist.store.shared import wait_until_seen

SPLITS_FILE = "splits.parquet"
EARLIER_SPLITS_FILE = "groups.parquet"
"""What version 0.1 called it: such runs still evaluate, predict and lend their splits."""

BAD_IMAGES_FILE = "bad_images.jsonl"
AUDIT_FILE = "audit.json"
"""How many images of U were drawn for audits (`inference/labels.py`)."""

OWN = UNFINISHED | {"run.json", "environment.json", "history.jsonl", "logs", "models"}
OWN |= {"checkpoints", "cotrain_dist", BAD_IMAGES_FILE}
"""What a training writes into its directory, a tracker's folder included."""

OUTCOME = ("finished", "cross_validation", "no_loss", "certainty")
"""What run.json says of a run's end."""


def splits_file(run: Path) -> Path:
    """Where the splits of a run lie, or would."""
    earlier = run / EARLIER_SPLITS_FILE
    return earlier if earlier.is_file() else run / SPLITS_FILE


def make_output_dir(path: Path) -> None:
    """Make the directory with those above it, writable. Raises UserError where that is refused."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        refused = None if os.access(path, os.W_OK) else "permission denied"
    except OSError as error:
        refused = str(error.strerror)
    if refused is not None:
        rule, way_out = f"cannot be made ({refused})", "name a directory that can be written to"
        raise UserError("output_dir", path, rule, way_out)


class RunDirectory:
    """Paths and small files of one run. Building one touches no disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.splits = path / SPLITS_FILE
        self.checkpoints = path / "checkpoints"
        self.models = path / "models"
        self.history = History(path / "history.jsonl")
        # The system gives the lock back when its process dies, so a kill leaves no run locked.
        self._lock = FileLock(path / "lock")
        self._fence = path / "fence"
        self._is_held = self._is_new = False
        self._folders_made: list[Path] = []
        self._own_attempt: int | None = None

    @property
    def run_id(self) -> str:
        """Name that the run was given when it was made; checkpoints carry it."""
        return str(self._identity()["run_id"])

    @property
    def attempt(self) -> int:
        """1 for the first start, one more with every resume."""
        return int(self._identity()["attempt"])

    def _identity(self) -> dict[str, Any]:
        """run.json; raises UserError where it does not say which run this is."""
        values = self.read_json("run.json")
        said = values if isinstance(values, dict) else {}
        if not isinstance(said.get("run_id"), str) or type(said.get("attempt")) is not int:
            raise self._damaged("run.json", "it has no run_id or no attempt")
        return said

    def create(self, config_yaml: str, splits: bytes) -> None:
        """Make the directory with its settings and splits.parquet.

        Raises UserError where anything lies there: nothing is replaced. run.json comes last: with
        it the directory counts as a run, and what a kill before has left is written anew.
        """
        check_output_dir(self.path)
        folders = [path for path in (self.path, *self.path.parents) if not path.exists()]
        make_output_dir(self.path)
        # Before anything is written: of two starts at one time, the later one changes nothing.
        self._lock_it()
        self._is_new, self._folders_made = True, folders
        atomic.write_text(self.config, config_yaml)
        atomic.write_bytes(self.splits, splits)
        # Not keyed by the seed: of two runs with equal settings, none takes the commits of the
        # other.
        self._take(1)
        self.write_json("run.json", {"run_id": secrets.token_hex(8), "attempt": 1})

    def discard_unused(self) -> None:
        """Take back what `create` has made here, unless a training has kept something in it.

        For a run that a user's mistake ends: the next try may then have the same directory. Files
        that are not the run's own stay, and the directory with them. Raises nothing.
        """
        if not self._is_new or self._keeps_something():
            return
        # The mistake is what the user is to read, not why a file cannot be deleted.
        with contextlib.suppress(OSError, Timeout):
            if not self._is_held:
                self._lock_now()
            # First: a kill right after it leaves a run that was never made.
            (self.path / "run.json").unlink(missing_ok=True)
            for entry in sorted(self.path.iterdir()):
                if entry.name != "lock" and (entry.name in OWN or is_unfinished(entry.name)):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self._release()
            (self.path / "lock").unlink(missing_ok=True)
            for folder in self._folders_made:
                folder.rmdir()

    def _keeps_something(self) -> bool:
        """Whether a training has come as far as a line of history or a commit."""
        commits = [path for path in self.checkpoints.glob("*/*") if path.suffix != ".tmp"]
        return bool(commits) or self.history.num_lines() > 0

    def open_again(self) -> None:
        """Take the directory for a resume."""
        self.check_is_run()
        self._lock_it()
        self._take(self.attempt + 1)

    def count_attempt(self) -> None:
        """One more start, from now on; what it changes of the settings is written by then."""
        self.write_json("run.json", self.read_json("run.json") | {"attempt": self.attempt + 1})

    def forget_outcome(self) -> None:
        """A run that ended before its last epoch, for its time was over, goes on: not finished."""
        kept = self.read_json("run.json")
        if any(key in kept for key in OUTCOME):
            self.write_json("run.json", {k: v for k, v in kept.items() if k not in OUTCOME})

    def _take(self, attempt: int) -> None:
        """No earlier attempt writes from now on. Raises UserError where one still does."""
        try:
            take_over(attempt, self._fence)
        except TimeoutError as error:
            raise UserError(
                "output_dir",
                self.path,
                "a rank of an earlier attempt is still writing a commit",
                "wait for it or end it",
            ) from error

    def belong_to(self, attempt: int) -> None:
        """On every rank, once the directory is taken: what this process writes is of `attempt`.

        Returns once this node sees run.json as that attempt has left it.
        """
        wait_until_seen(
            self.path / "run.json", lambda file: file.is_file() and self.attempt >= attempt
        )
        self._own_attempt = attempt

    @contextmanager
    def fenced(self) -> Iterator[None]:
        """Around what a rank writes: no later attempt begins meanwhile.

        Raises PeerLostError where one has: what it goes on from must not change any more.
        """
        if self._own_attempt is None:  # of no training
            yield
            return
        with writing_as(self._own_attempt, self._fence) as holder:
            if holder != self._own_attempt:
                raise PeerLostError(
                    f"attempt {holder} has taken over {self.path}: this one, {self._own_attempt}, "
                    "writes nothing any more"
                )
            yield

    @property
    def earlier_settings(self) -> list[str]:
        """Digests of the settings that it had before they were changed: of earlier commits."""
        return [str(digest) for digest in self.read_json("run.json").get("earlier_settings", [])]

    def change_settings(self, config_yaml: str, before: str, changes: Any) -> None:
        """Let the next attempt have other settings; a finished run is no longer that.

        before: digest of those that it had. changes: written beside the attempt's environment.
        """
        kept = {k: v for k, v in self.read_json("run.json").items() if k not in OUTCOME}
        earlier = list(dict.fromkeys([*self.earlier_settings, before]))
        # First: after a kill right here the settings before are still those of the run.
        self.write_json("run.json", kept | {"earlier_settings": earlier})
        self.write_json(f"config-changes-{self.attempt + 1}.json", changes)
        atomic.write_text(self.config, config_yaml)

    def is_run(self) -> bool:
        """Whether a run lies here."""
        return self.config.is_file() and (self.path / "run.json").is_file()

    def is_finished(self) -> bool:
        """Whether a training has come to its end here."""
        return self.is_run() and bool(self.read_json("run.json").get("finished"))

    def is_in_use(self) -> bool:
        """Whether a training holds the directory."""
        if not (self.path / "lock").is_file():  # no run, or a copy of one
            return False
        probe = FileLock(self.path / "lock")
        try:
            if why_no_locks(self.path) is not None:
                return False
            with probe.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # somebody else's run, or a read-only place: only they can resume it
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

    def _lock_it(self) -> None:
        """Hold the directory until `close`. Raises UserError if another training does."""
        try:
            self._lock_now()
        except Timeout as error:
            raise UserError(
                "output_dir",
                self.path,
                "is in use by a training that still runs",
                "wait for it or end it",
            ) from error

    def _lock_now(self) -> None:
        if can_lock(self.path):
            self._lock.acquire(timeout=0)
        else:  # its file shows, as ever, that the directory was begun by a training
            (self.path / "lock").touch()
        # Noted here: to another thread, a FileLock looks free that this process holds.
        self._is_held = True

    def _release(self) -> None:
        self._lock.release()
        self._is_held = False

    def close(self) -> None:
        """Give back what this process holds of the run: the lock and the log file."""
        self._release()
        _stop_log()

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file whole."""
        atomic.write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """Read a small file. Raises UserError where it is damaged."""
        try:
            return json.loads((self.path / name).read_text())
        except (ValueError, RecursionError) as error:
            raise self._damaged(name, " ".join(str(error).split())) from error

    def _damaged(self, name: str, why: str) -> UserError:
        way_out = "restore the file from a copy, or start a new run"
        return UserError("run", self.path / name, f"is damaged ({why})", way_out)

    def write_bad_images(self, lines: str) -> None:
        """Write bad_images.jsonl, unless it is there or there is none to list."""
        file = self.path / BAD_IMAGES_FILE
        if lines and not file.exists():
            atomic.write_text(file, lines)

    def start_log(self, global_rank: int) -> None:
        """Send this process's log lines to logs/rank-NNN.log, after those of earlier attempts."""
        wait_until_seen(self.path)
        folder = self.path / "logs"
        folder.mkdir(exist_ok=True)
        handler = _LogFile(folder / f"rank-{global_rank:03d}.log")
        handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
        _stop_log()  # of an earlier training in this process
        package = logging.getLogger("cotrain_dist")
        package.addHandler(handler)
        package.setLevel(logging.INFO)


class _OneLine(logging.Formatter):
    """A line of the log is one line, and what people read it with does nothing that it says."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """As the base's; a traceback comes behind it, on lines of its own."""
        return printable(super().formatMessage(record))


class _LogFile(logging.FileHandler):
    """A log that cannot be written, on a full disk, is no reason for tracebacks on the console."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line; the error itself reaches the user from where it matters."""


def _stop_log() -> None:
    """Close this process's log file, if it has one."""
    package = logging.getLogger("cotrain_dist")
    for handler in [h for h in package.handlers if isinstance(h, logging.FileHandler)]:
        package.removeHandler(handler)
        handler.close()
