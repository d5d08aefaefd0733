"""Is a run what its settings make? A part of it is trained again elsewhere, and compared."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from safetensors.torch import load_file

from cotrain_dist.config import Config
from cotrain_dist.config.text import config_digest
from cotrain_dist.errors import UserError
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.store import atomic
from cotrain_dist.store.checkpoint import commits_in, read_state
from cotrain_dist.store.records import CotrainRecord
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.digests import tensors_digest
from cotrain_dist.training.promise import STEP_ONE
from cotrain_dist.training.train import train_on
from cotrain_dist.types import ROLES

CLOCKS = ("seconds", "seconds_by_rank", "peak_memory_bytes_by_rank")
"""What no two runs have in common."""

EXCHANGE, FIGURES = "R_A and R_B", "figures and counts"


@dataclass(frozen=True)
class Comparison:
    """One thing that a run has recorded, and what was found now; digests in hex, or text."""

    epoch: int
    what: str
    recorded: str
    found: str

    @property
    def is_equal(self) -> bool:
        """Whether both are the same."""
        return self.recorded == self.found


def compare_records(recorded: CotrainRecord, found: CotrainRecord) -> list[Comparison]:
    """An epoch as a run tells of it against the same epoch trained again."""
    ours, theirs = recorded.digests or {}, found.digests or {}
    names = {role.value: f"weights of {role.name}" for role in ROLES} | {"exchange": EXCHANGE}
    rows = [
        Comparison(recorded.epoch, what, ours.get(name, "none"), theirs.get(name, "none"))
        for name, what in names.items()
    ]
    figures = [_figures_of(record) for record in (recorded, found)]
    return [*rows, Comparison(recorded.epoch, FIGURES, *figures)]


def _figures_of(record: CotrainRecord) -> str:
    """All that the line of an epoch says but for clocks and digests."""
    line = record.to_json()
    for key in (*CLOCKS, "digests"):
        line.pop(key, None)
    return json.dumps(line, sort_keys=True)


def compare_models(run: RunDirectory, last: CotrainRecord) -> list[Comparison]:
    """The saved models of the last epoch against its digests."""
    rows = []
    for role in ROLES:
        file = run.models / role.value / "model.safetensors"
        found = tensors_digest(load_file(file)) if file.is_file() else "no such file"
        recorded = (last.digests or {}).get(role.value, "none")
        rows.append(Comparison(last.epoch, f"models/{role.value}", recorded, found))
    return rows


def verify(
    config: Config, epoch: int | None, from_start: bool, work_dir: Path, rt: Runtime
) -> list[Comparison]:
    """Train the epochs up to one again, and compare. Collective over all ranks.

    config: of the run that lies in its `output_dir`, which is only read; it names no tracker.
    epoch: of Step 2, counted from 1; None for the last one. from_start: from the first weights on,
    instead of from the newest commit before that epoch; so it is as well where no commit is left
    and no epoch is named. work_dir: a folder that all ranks see, for a copy that is deleted.
    Returns the comparisons on the lead rank, an empty list on the others. Raises UserError where
    the run has no such epoch or commit, has recorded no digests, or had another number of ranks.
    """
    run = RunDirectory(Path(config.output_dir))
    records = together(lambda: _recorded(run) if rt.is_lead else [], rt.control)
    plan = together(lambda: _plan(run, records, epoch, from_start, config, rt), rt.control)
    until, after = broadcast_json(plan, rt.control)
    with _copy(run, after, work_dir, rt) as copy:
        replayed = replace(config, output_dir=str(copy))
        history = train_on(rt, replayed, resume=True, until=until)
    if not rt.is_lead:
        return []
    found = {line.epoch: line for line in history if isinstance(line, CotrainRecord)}
    rows = [
        row
        for record in records
        if after < record.epoch <= until
        for row in compare_records(record, found[record.epoch])
    ]
    return rows + (compare_models(run, records[-1]) if until == records[-1].epoch else [])


def _recorded(run: RunDirectory) -> list[CotrainRecord]:
    """On the lead rank: the epochs of Step 2, oldest first."""
    run.check_is_run()
    if run.is_in_use():
        rule, way_out = "is in use by a training that still runs", "wait for it or end it"
        raise UserError("RUN", run.path, rule, way_out)
    records = run.history.cotrain()
    if not records:
        raise UserError("RUN", run.path, "has not come to Step 2", "train --resume goes on with it")
    if records[-1].digests is None:
        rule = "has recorded no hashes: an earlier version has made it"
        raise UserError("RUN", run.path, rule, "train it again to have some")
    return records


def _plan(
    run: RunDirectory,
    records: Sequence[CotrainRecord],
    epoch: int | None,
    from_start: bool,
    config: Config,
    rt: Runtime,
) -> tuple[int, int] | None:
    """On the lead rank: the epoch to end after, and the one whose commit to begin with.

    That one is -1 for a training from the start.
    """
    if not rt.is_lead:
        return None
    last = records[-1].epoch
    until = last if epoch is None else epoch
    if not (0 if from_start else 1) <= until <= last:
        raise UserError(
            "--epoch",
            until,
            f"{run.path} has the epochs {0 if from_start else 1} to {last} of Step 2",
            "name one of them",
        )
    kept = {int(path.name.rpartition("-")[2]): path for path in _worlds(run)}
    # Without any commit the whole run is all that can be verified.
    earlier = [] if from_start or (epoch is None and not kept) else _earlier(kept, until)
    if earlier:
        made_by = read_state(kept[max(earlier)])["num_ranks"]
    else:
        made_by = len(run.read_json("environment.json").get("ranks", [])) or rt.num_ranks
    if made_by != rt.num_ranks and not config.train.exact_elastic:
        raise UserError(
            "RUN",
            run.path,
            f"was made by {made_by} process(es), here are {rt.num_ranks}: gradients would be added "
            "in another order",
            "start as many; only with train.exact_elastic any number gives the same",
        )
    after = max(earlier, default=-1)
    _check_settings(run, [kept[n] for n in kept if after < n <= until], after, config)
    return until, after


def _earlier(kept: Mapping[int, Path], until: int) -> list[int]:
    """Epochs before one whose commits are kept."""
    earlier = [number for number in kept if number < until]
    if not earlier:
        raise UserError(
            "--epoch",
            until,
            f"no commit before it is kept: there are those of {sorted(kept)}",
            "give a later epoch, or --from_start",
        )
    return earlier


def _check_settings(run: RunDirectory, commits: Sequence[Path], after: int, config: Config) -> None:
    """Raise UserError where an epoch to be trained again was made with other settings than now.

    commits: of those epochs. after: the epoch to begin with, -1 for the start.
    """
    here = config_digest(config)
    others = [path for path in commits if read_state(path)["config_sha256"] != here]
    if others or (after < 0 and run.earlier_settings):
        raise UserError(
            "RUN",
            run.path,
            "its settings were changed on the way (config-changes-ATTEMPT.json)",
            "give an --epoch after the change",
        )


def _worlds(run: RunDirectory) -> list[Path]:
    return commits_in(run.checkpoints / "world")


@contextmanager
def _copy(run: RunDirectory, after: int, work_dir: Path, rt: Runtime) -> Iterator[Path]:
    """A copy of a run as it was after an epoch, that trains again; deleted in the end.

    Collective over all ranks.
    """

    def make() -> str | None:
        if not rt.is_lead:
            return None
        try:
            folder = Path(mkdtemp(prefix=f".{run.path.name}-verify-", dir=work_dir))
        except OSError as error:
            rule = f"cannot be written to ({error.strerror})"
            way_out = "name a folder with --work_dir that all ranks see"
            raise UserError("--work_dir", work_dir, rule, way_out) from error
        _fill(run, after, folder)
        return str(folder)

    folder = Path(broadcast_json(together(make, rt.control), rt.control))
    try:
        yield folder
    finally:
        if rt.is_lead:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(run: RunDirectory, after: int, folder: Path) -> None:
    """Settings, splits, name and commits; nothing of what came later."""
    copied = RunDirectory(folder)
    for file in (run.config, run.splits, run.path / "environment.json"):
        shutil.copy2(file, folder / file.name)
    notes: Mapping[str, Any] = run.read_json("run.json")
    known = {"earlier_settings": run.earlier_settings}
    atomic.write_json(folder / "run.json", {"run_id": notes["run_id"], "attempt": 1} | known)
    if after < 0:
        return
    # The first lines: those of a commit are cut to its number by the resume itself.
    shutil.copy2(run.path / "history.jsonl", folder / "history.jsonl")
    for part in ("world", *(role.value for role in ROLES)):
        name = f"cotrain-{after:05d}"
        shutil.copytree(run.checkpoints / part / name, copied.checkpoints / part / name)
    for model in run.models.glob(f"{STEP_ONE}*"):  # a round may begin again from them
        shutil.copytree(model, copied.models / model.name)
