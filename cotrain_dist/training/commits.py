"""What a training commits at epoch ends, and how it goes on from there."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.config import CotrainConfig
from cotrain_dist.config.text import config_digest
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import UserError
from cotrain_dist.runtime.collectives import all_gather_json
from cotrain_dist.store.checkpoint import (
    MANIFEST,
    commit,
    file_digest,
    keep_last,
    read_state,
    read_tensors,
)
from cotrain_dist.store.records import PretrainRecord
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.found import check_origin
from cotrain_dist.training.packing import exchange_from_tensors, exchange_to_tensors
from cotrain_dist.training.snapshot import load_snapshot, snapshot_of
from cotrain_dist.training.student import Student
from cotrain_dist.training.within import forget_steps
from cotrain_dist.types import Exchange, Position

RIGHT_BEFORE = "right_before"
"""A file of a world commit."""


@dataclass(frozen=True)
class BestModel:
    """The best model so far: its role, epoch and top-1; None where nothing was measured."""

    role: str
    epoch: int
    top1: float | None


@dataclass
class PretrainState:
    """Where a role stands in Step 1."""

    next: Position = field(default_factory=Position)
    is_finished: bool = False
    records: list[PretrainRecord] = field(default_factory=list)
    """History lines of the role so far; they join the others when the roles meet."""


@dataclass
class CotrainState:
    """Where both roles stand in Step 2."""

    next: Position
    ever_selected: Tensor
    """[number of images in U] bool: in some R so far."""
    num_history_lines: int
    best: BestModel | None = None
    exchanged: Exchange = field(default_factory=Exchange.empty)
    """What this round teaches."""
    right_before: Tensor | None = None
    """With `cotrain.keep_step_one` and a V: [number of images in V] bool, those that the better
    model of Step 1 calls right."""

    @classmethod
    def at_start(cls, num_pool: int) -> "CotrainState":
        """Before anything of Step 2 was done; epoch 0 is then closed."""
        return cls(Position(0), torch.zeros(num_pool, dtype=torch.bool), num_history_lines=0)


def commit_pretrain(
    student: Student, state: PretrainState, epoch: int, images: Images, ctx: RunContext
) -> None:
    """Collective over the role group: the student after a pre-training epoch."""
    progress = {
        "is_finished": state.is_finished,
        "records": [record.to_json() for record in state.records],
    }
    header = _header("pretrain", state.next, images.table, ctx) | progress
    folder = ctx.store.checkpoints / student.role.value
    _commit_student(student, folder / _name("pretrain", epoch), header, ctx.store.fenced)
    if student.is_lead:
        keep_last(folder, ctx.config.checkpoint.keep)
    forget_steps(student, ctx.store.checkpoints)


def commit_cotrain(
    students: list[Student], state: CotrainState, images: Images, ctx: RunContext
) -> None:
    """Collective over all ranks: both students and the state of Step 2 after an epoch.

    Epoch 0 is the start of Step 2. The run counts as having got so far once the lead rank has
    written the world commit; a role's own commit without one is ignored.
    """
    checkpoints, rt = ctx.store.checkpoints, ctx.runtime
    name = _name("cotrain", state.next.epoch - 1)
    header = _header("cotrain", state.next, images.table, ctx)
    with rt.clock.measure("commit"):
        digests = {
            student.role.value: _commit_student(
                student, checkpoints / student.role.value / name, header, ctx.store.fenced
            )
            for student in students
        }
        # Here the roles meet: what the world commit names stands on the disk by now.
        merged: dict[str, str] = {}
        for part in all_gather_json(digests, rt.control):
            merged |= {role: digest for role, digest in part.items() if digest}  # the leads'
        tensors = _world_tensors(state, ctx.config.cotrain) if rt.is_lead else {}
        world = header | {
            "manifests": merged,
            "num_history_lines": state.num_history_lines,
            "history_sha256": ctx.store.history.digest(state.num_history_lines),
            "best": None if state.best is None else asdict(state.best),
        }
        commit(checkpoints / "world" / name, tensors, world, rt.control, ctx.store.fenced)
        if rt.is_lead:
            # Only now: until the world commit stands, a resume needs the commits before it.
            for part_name in ("a", "b", "world"):
                keep_last(checkpoints / part_name, ctx.config.checkpoint.keep)
    for student in students:
        forget_steps(student, ctx.store.checkpoints)


def _world_tensors(state: CotrainState, cotrain: CotrainConfig) -> dict[str, dict[str, Tensor]]:
    """What a world commit holds beside its JSON, by file."""
    tensors = {"ever_selected": {"mask": state.ever_selected}}
    if state.right_before is not None:
        tensors[RIGHT_BEFORE] = {"mask": state.right_before}
    # Only where the next epoch goes on with what this round teaches.
    if not cotrain.begins_round(state.next.epoch):
        tensors["exchange"] = exchange_to_tensors(state.exchanged)
    return tensors


def _name(phase: str, epoch: int) -> str:
    # Padded, so that commits sort by epoch.
    return f"{phase}-{epoch:05d}"


def _header(phase: str, following: Position, table: SplitTable, ctx: RunContext) -> dict[str, Any]:
    """What every commit says of its run, and the position to go on from."""
    return {
        "run_id": ctx.store.run_id,
        "attempt": ctx.store.attempt,
        "phase": phase,
        "next": asdict(following),
        # These two may change on a resume, with a warning: bits then differ.
        "num_ranks": ctx.runtime.num_ranks,
        "precision": ctx.runtime.precision,
        "config_sha256": config_digest(ctx.config),
        "data_sha256": table.digest,
    }


def _commit_student(
    student: Student,
    target: Path,
    header: dict[str, Any],
    fence: Callable[[], AbstractContextManager[None]],
) -> str:
    """Commit one role; returns the digest of its manifest (on its lead rank)."""
    tensors = {f"buffers-{student.group.index}": dict(student.model.named_buffers())}
    state = None
    if student.is_lead:
        own, values = snapshot_of(student)
        tensors |= own
        state = header | values | {"features": _features_of(student)}
    commit(target, tensors, state, student.group, fence)
    return file_digest(target / MANIFEST) if student.is_lead else ""


def _features_of(student: Student) -> str | None:
    """The key of the features that a head was fitted on; None where the whole model is trained."""
    return None if student.frozen is None else student.frozen.features.path.name


def restore_pretrain(
    student: Student, folder: Path | None, images: Images, ctx: RunContext
) -> PretrainState:
    """Load a role's pre-training commit into the student; a fresh state without one."""
    if folder is None:
        return PretrainState()
    state = _restore_student(student, folder, images.table, ctx)
    records = [PretrainRecord.from_json(record) for record in state["records"]]
    return PretrainState(_position(state), state["is_finished"], records)


def restore_cotrain(
    students: list[Student], folder: Path, images: Images, ctx: RunContext
) -> CotrainState:
    """Load a world commit and the commits of the roles that it names, as `find_commits` chose."""
    state = read_state(folder)
    check_origin(state, folder, images.table, ctx)
    for student in students:
        own = ctx.store.checkpoints / student.role.value / folder.name
        _restore_student(student, own, images.table, ctx)
    if ctx.runtime.is_lead:
        # Lines come before their commit, so a killed run may have one that no commit counts.
        ctx.store.history.cut_after(state["num_history_lines"])
    exchanged = Exchange.empty()
    if not ctx.config.cotrain.begins_round(state["next"]["epoch"]):
        exchanged = exchange_from_tensors(read_tensors(folder, "exchange"))
    # There only with `cotrain.keep_step_one`; read_state has checked that no file is missing.
    has_right = (folder / f"{RIGHT_BEFORE}.safetensors").is_file()
    return CotrainState(
        next=_position(state),
        ever_selected=read_tensors(folder, "ever_selected")["mask"],
        num_history_lines=state["num_history_lines"],
        best=None if state["best"] is None else BestModel(**state["best"]),
        exchanged=exchanged,
        right_before=read_tensors(folder, RIGHT_BEFORE)["mask"] if has_right else None,
    )


def _position(state: Mapping[str, Any]) -> Position:
    return Position(state["next"]["epoch"], state["next"]["step"])


@torch.no_grad()
def _restore_student(
    student: Student, folder: Path, table: SplitTable, ctx: RunContext
) -> dict[str, Any]:
    state = read_state(folder)
    check_origin(state, folder, table, ctx)
    if state.get("features") != _features_of(student):
        raise UserError(
            "--resume",
            folder,
            "holds a head for other features than the model gives now",
            f"put back the weights of model_{student.role.value} and the versions of that run, or "
            "start a new one",
        )
    load_snapshot(student, folder, state)
    # At an epoch's end all ranks' buffers are equal, so a role with more ranks reads the first's.
    own = f"buffers-{student.group.index}"
    source = own if (folder / f"{own}.safetensors").is_file() else "buffers-0"
    buffers = read_tensors(folder, source)
    for name, buffer in student.model.named_buffers():
        buffer.copy_(buffers[name])
    if state["num_ranks"] != ctx.runtime.num_ranks and student.exact is None:
        ctx.reporter.warn(
            f"resumed with {ctx.runtime.num_ranks} ranks after {state['num_ranks']}: right, but "
            "gradients are summed in another order, so not bit-equal to an undisturbed run"
        )
    if state["precision"] != ctx.runtime.precision:
        ctx.reporter.warn(
            f"resumed in {ctx.runtime.precision} after {state['precision']}: the result is that of "
            "neither; start as before, or set precision"
        )
    return state
