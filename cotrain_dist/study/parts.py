"""The folder of a study, and its trainings: begun, continued or skipped."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml, flatten, is_free_on_resume
from cotrain_dist.data.sources.listing import Listing
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.reporting.tables import show_outcome
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.store import atomic
from cotrain_dist.store.locks import can_lock
from cotrain_dist.store.run_directory import RunDirectory, make_output_dir
from cotrain_dist.study.checks import check_settings, with_test
from cotrain_dist.study.settings import DECIDED_BY_PART
from cotrain_dist.training.train import train_on

WAIT_SECONDS = 2.0
"""Between two looks at a part that another process trains."""


SETTINGS_FILE = "study.yaml"

FORMAT_LINE = "# study, format 2\n"
"""Its first line. Format 1 had none, and some of its folders have the names of other arms by now.
"""


def open_study(base: Config, folder: Path) -> None:
    """Make the study's folder, or check that it was begun with the same settings; on one rank."""
    base = with_test(base)
    check_settings(base)
    if folder.exists() and not _is_study(folder):
        raise UserError(
            "output_dir",
            folder,
            "exists already and holds no study",
            "name another directory, or delete it",
        )
    make_output_dir(folder)
    settings = folder / SETTINGS_FILE
    with claim(settings, base):  # tasks of an array begin at one time
        # The first task decides; the others compare themselves with it below.
        if not settings.exists():
            atomic.write_text(settings, FORMAT_LINE + config_to_yaml(base))
    if study_format(folder) == 1:
        raise UserError(
            "output_dir",
            folder,
            "holds a study of an earlier version, whose arms have other names and settings",
            "name another directory; reproduce --report_only still reads this one",
        )
    for key, value, before in _changed(base, settings):
        if key not in DECIDED_BY_PART:
            raise UserError(
                key,
                value,
                f"the study in {folder} was begun with {before}",
                "go on with that, or name another output_dir",
            )


def study_format(folder: Path) -> int:
    """Of the study that lies there."""
    settings = folder / SETTINGS_FILE
    return 1 if settings.is_file() and not settings.read_text().startswith(FORMAT_LINE) else 2


def check_images(listing: Listing, base: Config, others: Iterable[Path]) -> None:
    """Raise UserError where the study's other parts were drawn from other images; on one rank.

    others: their folders, of which the first one counts. `data.root` may change, as the images may
    have moved, but what is in it may not.
    """
    for part in [path for path in sorted(others) if RunDirectory(path).is_run()][:1]:
        begun = load_split_table(part).listing
        if _images_in(begun) != _images_in(listing):
            raise UserError(
                "data.root",
                base.data.root or base.data.source,
                f"holds other images or labels than {part} was drawn from",
                "give those, or name another output_dir",
            )


def _images_in(listing: Listing) -> tuple[Any, ...]:
    return listing.paths, listing.digests, listing.class_names, listing.class_ids.tolist()


def _changed(config: Config, saved: Path) -> Iterator[tuple[str, Any, Any]]:
    """Keys that decide a result and differ from a YAML file of settings: now, and there."""
    begun = flatten(yaml.safe_load(saved.read_text()))
    for key, value in flatten(asdict(config)).items():
        if value != begun.get(key) and not is_free_on_resume(key):
            yield key, value, begun.get(key)


def _is_study(folder: Path) -> bool:
    """Whether a study lies here, or nothing at all."""
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    # The lock alone is a study that another task is just making.
    return not names or bool(names & {SETTINGS_FILE, f"{SETTINGS_FILE}.lock"})


def run_part(config: Config, rt: Runtime, *, quiet: bool) -> None:
    """Train into `config.output_dir`, from where it stands there. Collective over all ranks.

    Another process that works on the part is waited for.
    """
    run = RunDirectory(Path(config.output_dir))
    # One rank for all: ranks that each took the lock would wait for each other.
    held = together(lambda: claim(run.path, config) if rt.is_lead else nullcontext(), rt.control)
    with held:
        state = on_lead(lambda: _state_of(run, config), rt)
        if state != "finished":
            try:
                history = train_on(rt, config, resume=state == "begun", quiet=quiet)
            finally:  # Accelerate holds every model that it has prepared
                rt.accelerator.free_memory()
            if not quiet:
                show_outcome(history)


def on_lead(work: Callable[[], Any], rt: Runtime) -> Any:
    """Collective over all ranks: what work gives on the lead rank alone; a plain value for JSON."""
    return broadcast_json(together(lambda: work() if rt.is_lead else None, rt.control), rt.control)


def claim(path: Path, config: Config) -> AbstractContextManager[object]:
    """A lock beside a study's file or a part's directory, held until the block ends; on one rank.

    A part's own lock comes too late, when two processes have both found the part new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = config.distributed.wait_for_peer_seconds
    if not can_lock(path.parent):
        return nullcontext()
    try:
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        return lock.acquire(timeout=limit, poll_interval=WAIT_SECONDS)
    except Timeout as error:
        raise UserError(
            "output_dir",
            path,
            f"another process has worked on it for {limit:.0f} seconds",
            "wait for it or end it",
        ) from error


def sources_of(run: RunDirectory) -> list[str]:
    """Digests of the source that the part's attempts ran, the first one first."""
    # By time, since names sort environment-10 before environment-2, and both before environment.
    files = sorted(run.path.glob("environment*.json"), key=lambda file: file.stat().st_mtime_ns)
    found = [json.loads(file.read_text()).get("source", "not recorded") for file in files]
    return list(dict.fromkeys(found))


def _state_of(run: RunDirectory, config: Config) -> str:
    """finished, begun or new; raises UserError for one begun with other settings."""
    if run.is_finished():
        return "finished"
    if not run.is_run():
        return "new"
    for key, value, before in _changed(config, run.config):
        raise UserError(
            key,
            value,
            f"{run.path} was begun with {before}",
            "move the study back to where it was begun, or delete this part",
        )
    return "begun"
