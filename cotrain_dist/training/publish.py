"""What an epoch of Step 2 leaves for people: a history line, a printed line, saved models."""

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.data.groups import GroupTable
from cotrain_dist.errors import TrainingError
from cotrain_dist.method.advice import advise
from cotrain_dist.method.exchange import teacher_of
from cotrain_dist.method.metrics import (
    Accuracy,
    agreement_rate,
    describe_pool,
    pseudo_label_accuracy,
)
from cotrain_dist.method.selection import num_equal_codes
from cotrain_dist.method.splits import Group
from cotrain_dist.models import save_model
from cotrain_dist.runtime.clock import peak_memory_bytes
from cotrain_dist.runtime.collectives import all_gather_json, broadcast_json
from cotrain_dist.training.commits import CotrainState
from cotrain_dist.training.experiment import Experiment
from cotrain_dist.training.steps import EpochFit
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES, Exchange, Role, Votes


def require_finite(
    fits: dict[Role, EpochFit], epoch: int, exp: Experiment
) -> dict[str, dict[str, Any]]:
    """Collective over all ranks: both roles' fits; raises TrainingError on every rank together.

    Keys of the result: a, b.
    """
    fit_of: dict[str, dict[str, Any]] = {}
    own = {role.value: asdict(fit) for role, fit in fits.items()}
    for part in all_gather_json(own, exp.rt.control):
        fit_of |= part
    for name, fit in sorted(fit_of.items()):
        if not math.isfinite(fit["loss"]):
            raise TrainingError(
                f"epoch {epoch}: the loss of model {name.upper()} is {fit['loss']}; lower "
                "cotrain.learning_rate or set train.clip_grad_norm. What was committed before "
                "this epoch stays."
            )
    return fit_of


def publish_epoch(
    epoch: int,
    exchanged: Exchange,
    votes: Votes | None,
    fit_of: dict[str, dict[str, Any]],
    measured: dict[str, dict[str, Accuracy]],
    state: CotrainState,
    seconds: float,
    exp: Experiment,
) -> int:
    """Collective over all ranks: append the epoch's line to the history; returns its line number.

    Marks in `state` which images of U have been selected so far. The lead rank writes.
    """
    pool_ids = exp.table.sample_ids(Group.U)
    for role in ROLES:
        chosen = torch.isin(pool_ids, exchanged.selected_by(role).sample_ids)
        state.ever_selected |= chosen
    clocks = all_gather_json(exp.rt.clock.take(), exp.rt.control)
    memory = all_gather_json(peak_memory_bytes(exp.rt.device), exp.rt.control)
    num_lines = 0
    if exp.rt.is_lead:
        record: dict[str, Any] = {
            "phase": "cotrain",
            "epoch": epoch,
            **describe_exchange(epoch, exchanged, votes, state, exp),
            **{f"fit_{name}": fit for name, fit in sorted(fit_of.items())},
            **{
                group: {name: accuracy.as_dict() for name, accuracy in figures.items()}
                for group, figures in measured.items()
            },
            "seconds": round(seconds, 3),
            "seconds_by_rank": clocks,
            "peak_memory_bytes_by_rank": memory,
        }
        exp.run.history.append(record)
        exp.rt.track(record)
        num_lines = len(exp.run.history.read())
        line = _line(record, exp.config.cotrain.num_epochs)
        exp.reporter.say(line)
        exp.reporter.remember(line)
        if votes is not None:
            for warning in advise(exchanged, votes, list(exp.table.class_names)):
                exp.reporter.warn(warning)
    num_lines = broadcast_json(num_lines, exp.rt.control)
    return int(num_lines)


def describe_exchange(
    epoch: int, exchanged: Exchange, votes: Votes | None, state: CotrainState, exp: Experiment
) -> dict[str, Any]:
    """Size, class histogram and accuracy of R_A and R_B, and what U looked like.

    The true labels of U are read here alone, to measure; nothing flows back from here.
    """
    config, table = exp.config, exp.table
    true_labels = table.class_ids[table.sample_ids(Group.U)]
    num_pool = max(len(true_labels), 1)
    described: dict[str, Any] = {
        "exchange": config.exchange if votes is not None else None,
        "agreement_rate": None if votes is None else agreement_rate(votes),
        "num_equal_codes": None
        if votes is None
        else num_equal_codes(votes, threshold=config.selection.threshold),
        "never_selected_fraction": 1.0 - state.ever_selected.double().sum().item() / num_pool,
        "pool": None
        if votes is None
        else describe_pool(votes, true_labels, len(table.class_names)),
    }
    for role in ROLES:
        selected = exchanged.selected_by(role)
        name = role.value
        teacher = teacher_of(role, epoch, config.exchange, config.exchange_parity)
        described |= {
            f"teacher_of_{name}": teacher.value if teacher and votes is not None else None,
            f"num_selected_{name}": len(selected.labels),
            f"selected_accuracy_{name}": pseudo_label_accuracy(selected, table.class_ids),
            f"selected_class_histogram_{name}": class_histogram(selected.labels, table),
            f"selected_right_histogram_{name}": class_histogram(
                selected.labels[selected.labels == table.class_ids[selected.sample_ids]], table
            ),
        }
    return described


def class_histogram(labels: Tensor, table: GroupTable) -> list[int]:
    """How many images each class was given."""
    return torch.bincount(labels, minlength=len(table.class_names)).tolist()  # type: ignore[no-any-return]


def _line(record: dict[str, Any], num_epochs: int) -> str:
    test = record["test"]
    line = f"cotrain {record['epoch']}/{num_epochs}: T " + ", ".join(
        f"{name if len(name) > 1 else name.upper()} {figures['top1']:.1%}"
        for name, figures in test.items()
    )
    for name in ("a", "b"):
        if record["agreement_rate"] is None:
            break
        accuracy = record[f"selected_accuracy_{name}"]
        line += f"; R_{name.upper()} {record[f'num_selected_{name}']}"
        line += "" if accuracy is None else f" ({accuracy:.0%} right)"
    if record["epoch"]:
        minutes_left = (num_epochs - record["epoch"]) * record["seconds"] / 60
        line += f"; {record['seconds']:.0f} s, {minutes_left:.1f} min left"
    return line


def export_models(students: list[Student], epoch: int, exp: Experiment) -> None:
    """Write models/a and models/b; each role's lead rank its own."""
    for student in students:
        if student.is_lead:
            _save(student, student.role.value, {"epoch": epoch}, exp)


def keep_best_on_validation(
    students: list[Student],
    state: CotrainState,
    validation: dict[str, Accuracy],
    epoch: int,
    exp: Experiment,
) -> None:
    """Write models/best where a model beats all before it on V; the earlier one wins a tie."""
    role = max(ROLES, key=lambda role: validation[role.value].top1)
    top1 = validation[role.value].top1
    if state.best is not None and top1 <= state.best["top1"]:
        return
    state.best = {"role": role.value, "epoch": epoch, "top1": top1}
    for student in students:
        if student.role is role and student.is_lead:
            _save(student, "best", state.best | {"chosen_on": "V"}, exp)


def save_better_of_last_epoch(
    students: list[Student], test: dict[str, dict[str, float]], epoch: int, exp: Experiment
) -> None:
    """Without V: write models/best from the better role on T of the last epoch, and say so."""
    role = max(ROLES, key=lambda role: test[role.value]["top1"])
    notes = {
        "role": role.value,
        "epoch": epoch,
        "top1": test[role.value]["top1"],
        "chosen_on": "T",
        "note": "chosen on T: its accuracy on T is optimistic; data.validation_fraction draws a V",
    }
    for student in students:
        if student.role is role and student.is_lead:
            _save(student, "best", notes, exp)


def _save(student: Student, name: str, notes: dict[str, Any], exp: Experiment) -> None:
    notes = {"run_id": exp.run.run_id, "role": student.role.value} | notes
    folder = exp.run.models / name
    folder.parent.mkdir(exist_ok=True)
    save_model(
        student.model,
        folder,
        student.preprocessing,
        exp.table.class_names,
        notes,
    )
