"""The models that a run leaves: a and b of the last epoch, and the best."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cotrain_dist.method.metrics import Accuracy
from cotrain_dist.models import save_model
from cotrain_dist.store.records import CotrainRecord
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.commits import BestModel, CotrainState
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES

CHOSEN_ON_T = "chosen on T: its accuracy on T is optimistic; data.validation_fraction draws a V"


def export_models(
    students: list[Student], epoch: int, class_names: Sequence[str], store: RunDirectory
) -> None:
    """Write models/a and models/b; each role's lead rank its own."""
    for student in students:
        if student.is_lead:
            _save(student, student.role.value, {"epoch": epoch}, class_names, store)


def keep_best_on_validation(
    students: list[Student],
    state: CotrainState,
    epoch: int,
    validation: Mapping[str, Accuracy],
    class_names: Sequence[str],
    store: RunDirectory,
) -> None:
    """Write models/best where a model beats all before it on V; the earlier one wins a tie."""
    best = _better_model(epoch, validation)
    if state.best is not None and best.top1 <= state.best.top1:
        return
    # On every rank, though one alone saves the model: all must agree on what the next one has to
    # beat.
    state.best = best
    _save_best(students, best, {"chosen_on": "V"}, class_names, store)


def save_better_of_last_epoch(
    students: list[Student], last: CotrainRecord, class_names: Sequence[str], store: RunDirectory
) -> None:
    """Without V: write models/best from the better role on T of the last epoch, and say so."""
    best = _better_model(last.epoch, last.test)
    notes = {"chosen_on": "T", "note": CHOSEN_ON_T}
    _save_best(students, best, notes, class_names, store)


def _better_model(epoch: int, figures: Mapping[str, Accuracy]) -> BestModel:
    # max() takes the first of equals, A: the same on every rank, as the figures are.
    role = max(ROLES, key=lambda role: figures[role.value].top1)
    return BestModel(role.value, epoch, figures[role.value].top1)


def _save_best(
    students: list[Student],
    best: BestModel,
    notes: dict[str, Any],
    class_names: Sequence[str],
    store: RunDirectory,
) -> None:
    for student in students:
        if student.role.value == best.role and student.is_lead:
            _save(student, "best", asdict(best) | notes, class_names, store)


def _save(
    student: Student,
    name: str,
    notes: dict[str, Any],
    class_names: Sequence[str],
    store: RunDirectory,
) -> None:
    notes = {"run_id": store.run_id, "role": student.role.value} | notes
    folder = store.models / name
    folder.parent.mkdir(exist_ok=True)
    save_model(student.whole, folder, student.preprocessing, class_names, notes)
