"""What a training commits at epoch ends, and how it goes on from there."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.errors import UserError
from cotrain_dist.runtime.checkpoint import (
    MANIFEST,
    commit,
    commits_in,
    file_digest,
    keep_last,
    pack_optimizer,
    read_state,
    read_tensors,
    unpack_optimizer,
)
from cotrain_dist.runtime.collectives import all_gather_json
from cotrain_dist.training.experiment import Experiment
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES

NUM_KEPT = 2
"""Commits kept of each role and of the world: the newest, and one to fall back to."""


@dataclass
class PretrainState:
    """Where a role stands in Step 1."""

    next_epoch: int = 1
    is_finished: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)
    """History lines of the role so far; they join the others when the roles meet."""


@dataclass
class CotrainState:
    """Where both roles stand in Step 2."""

    next_epoch: int
    ever_selected: Tensor
    """[number of images in U] bool: in some R so far."""
    best: dict[str, Any] | None = None
    """Role, epoch and top-1 of the best model on V."""


def commit_pretrain(student: Student, state: PretrainState, epoch: int, exp: Experiment) -> None:
    """Collective over the role group: the student after a pre-training epoch."""
    progress = {
        "is_finished": state.is_finished,
        "records": state.records,
    }
    _commit_student(student, "pretrain", epoch, progress, exp)


def commit_cotrain(
    students: list[Student], state: CotrainState, epoch: int, num_lines: int, exp: Experiment
) -> None:
    """Collective over all ranks: both students and the state of Step 2 after an epoch.

    Epoch 0 is the start of Step 2. The run counts as having got so far once the lead rank has
    written the world commit; a role's own commit without one is ignored.
    """
    with exp.rt.clock.measure("commit"):
        digests = {
            student.role.value: _commit_student(student, "cotrain", epoch, {}, exp)
            for student in students
        }
        merged: dict[str, str] = {}
        for part in all_gather_json(digests, exp.rt.control):
            merged |= {role: digest for role, digest in part.items() if digest}  # the leads'
        tensors = {"ever_selected": {"mask": state.ever_selected}} if exp.rt.is_lead else {}
        world = _header("cotrain", epoch, exp) | {
            "manifests": merged,
            "num_history_lines": num_lines,
            "best": state.best,
        }
        folder = exp.run.checkpoints / "world"
        commit(folder / _name("cotrain", epoch), tensors, world, exp.rt.control)
        if exp.rt.is_lead:
            for name in ("a", "b", "world"):
                keep_last(exp.run.checkpoints / name, NUM_KEPT)


def _name(phase: str, epoch: int) -> str:
    return f"{phase}-{epoch:05d}"


def _header(phase: str, epoch: int, exp: Experiment) -> dict[str, Any]:
    return {
        "run_id": exp.run.run_id,
        "attempt": exp.run.attempt,
        "phase": phase,
        # The position to go on from: the next epoch's first micro-batch.
        "next": {"epoch": epoch + 1, "step": 0, "micro_step": 0},
        "num_ranks": exp.rt.num_ranks,
        "precision": exp.rt.precision,
        "config_sha256": exp.config_digest,
        "data_sha256": exp.data_digest,
    }


def _commit_student(
    student: Student, phase: str, epoch: int, progress: dict[str, Any], exp: Experiment
) -> str:
    """Commit one role; returns the digest of its manifest (on its lead rank)."""
    tensors: dict[str, dict[str, Tensor]] = {}
    buffers = dict(student.model.named_buffers())
    tensors[f"buffers-{student.group.index}"] = buffers
    state = None
    if student.is_lead:
        tensors["model"] = dict(student.model.named_parameters())
        tensors["optimizer"], rest = pack_optimizer(student.optimizer)
        state = _header(phase, epoch, exp) | progress
        state |= {"optimizer": rest, "scaler": student.scaler.state_dict()}
    folder = exp.run.checkpoints / student.role.value
    target = folder / _name(phase, epoch)
    commit(target, tensors, state, student.group)
    if not student.is_lead:
        return ""
    if phase == "pretrain":
        keep_last(folder, NUM_KEPT)
    return file_digest(target / MANIFEST)


def last_cotrain_commit(exp: Experiment) -> Path | None:
    """The newest world commit, or None before Step 2."""
    commits = commits_in(exp.run.checkpoints / "world")
    return commits[-1] if commits else None


def restore_pretrain(student: Student, exp: Experiment) -> PretrainState:
    """Load a role's newest pre-training commit into the student; a fresh state without one."""
    folder = exp.run.checkpoints / student.role.value
    commits = [path for path in commits_in(folder) if path.name.startswith("pretrain")]
    if not commits:
        return PretrainState()
    state = _restore_student(student, commits[-1], exp)
    return PretrainState(state["next"]["epoch"], state["is_finished"], state["records"])


def restore_cotrain(students: list[Student], folder: Path, exp: Experiment) -> CotrainState:
    """Load a world commit and the commits of the roles that it names."""
    state = read_state(folder)
    _check_origin(state, folder, exp)
    for role in ROLES:
        manifest = exp.run.checkpoints / role.value / folder.name / MANIFEST
        expected = state["manifests"][role.value]
        if not manifest.is_file() or file_digest(manifest) != expected:
            raise UserError(
                "checkpoint",
                manifest,
                "is missing or not the one that the world commit names",
                f"delete {folder} to go on from the commit before it",
            )
    for student in students:
        _restore_student(student, exp.run.checkpoints / student.role.value / folder.name, exp)
    if exp.rt.is_lead:
        exp.run.history.cut_after(state["num_history_lines"])
    return CotrainState(
        next_epoch=state["next"]["epoch"],
        ever_selected=read_tensors(folder, "ever_selected")["mask"],
        best=state["best"],
    )


@torch.no_grad()
def _restore_student(student: Student, folder: Path, exp: Experiment) -> dict[str, Any]:
    state = read_state(folder)
    _check_origin(state, folder, exp)
    parameters = read_tensors(folder, "model")
    for name, parameter in student.model.named_parameters():
        parameter.copy_(parameters[name])
    # At an epoch's end all ranks' buffers are equal, so a role with more ranks reads the first's.
    own = f"buffers-{student.group.index}"
    source = own if (folder / f"{own}.safetensors").is_file() else "buffers-0"
    buffers = read_tensors(folder, source)
    for name, buffer in student.model.named_buffers():
        buffer.copy_(buffers[name])
    unpack_optimizer(student.optimizer, read_tensors(folder, "optimizer"), state["optimizer"])
    student.scaler.load_state_dict(state["scaler"])
    if state["num_ranks"] != exp.rt.num_ranks:
        exp.reporter.warn(
            f"resumed with {exp.rt.num_ranks} ranks after {state['num_ranks']}: right, but "
            "gradients are summed in another order, so not bit-equal to an undisturbed run"
        )
    if state["precision"] != exp.rt.precision:
        exp.reporter.warn(
            f"resumed in {exp.rt.precision} after {state['precision']}: the result is that of "
            "neither; start as before, or set precision"
        )
    return state


def _check_origin(state: dict[str, Any], folder: Path, exp: Experiment) -> None:
    for key, what, here in (
        ("run_id", "another run", exp.run.run_id),
        ("config_sha256", "other settings", exp.config_digest),
        ("data_sha256", "other data or groups", exp.data_digest),
    ):
        if state[key] != here:
            raise UserError(
                "--resume",
                folder,
                f"was made with {what}",
                "leave the run directory as train wrote it, or start a new one",
            )
