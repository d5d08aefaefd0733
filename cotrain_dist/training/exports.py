"""The models that a run leaves: a and b of the last epoch, and the best."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from cotrain_dist.method.metrics import Accuracy
from cotrain_dist.models import save_model
from cotrain_dist.store.records import CotrainRecord, CrossValidation
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.commits import BestModel, CotrainState
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES, Role

CHOSEN_ON_T = "chosen on T: its accuracy on T is optimistic; data.validation_fraction draws a V"


def export_models(
    students: list[Student], epoch: int, class_names: Sequence[str], store: RunDirectory
) -> None:
    """Write models/a and models/b; each role's lead rank its own."""
    for student in students:
        if student.is_lead:
            _save(student, student.role.value, {"epoch": epoch}, class_names, store)


def step_one_folder(role: Role, store: RunDirectory) -> Path:
    """Where a model lies as it was at the end of Step 1."""
    return store.models / f"step_one_{role.value}"


def export_step_one(
    students: list[Student], class_names: Sequence[str], store: RunDirectory
) -> None:
    """Write models/step_one_a and models/step_one_b; each role's lead rank its own."""
    for student in students:
        if student.is_lead:
            _save(student, step_one_folder(student.role, store).name, {}, class_names, store)


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
    if state.best is not None and _top1(best) <= _top1(state.best):
        return
    # On every rank, though one alone saves the model: all must agree on what the next one has to
    # beat.
    state.best = best
    _save_best(students, best, {"chosen_on": "V"}, class_names, store)


def save_better_of_last_epoch(
    students: list[Student], last: CotrainRecord, class_names: Sequence[str], store: RunDirectory
) -> None:
    """Without V: write models/best from the better role on T of the last epoch, and say so."""
    best = _better_model(last.epoch, last.on_test)
    notes = {"chosen_on": "T", "note": CHOSEN_ON_T}
    _save_best(students, best, notes, class_names, store)


def save_better_by_estimate(
    students: list[Student],
    epoch: int,
    found: CrossValidation | None,
    class_names: Sequence[str],
    store: RunDirectory,
) -> None:
    """Without T and V: write models/best from the better role by cross-validation; else from A."""
    if found is None:
        best, notes = BestModel(ROLES[0].value, epoch, None), {"chosen_on": "nothing"}
    else:
        best, notes = _better_model(epoch, found.of), {"chosen_on": "cross-validation on L"}
    _save_best(students, best, notes, class_names, store)


def _top1(best: BestModel) -> float:
    assert best.top1 is not None
    return best.top1


class _HasTop1(Protocol):
    @property
    def top1(self) -> float: ...


def _better_model(epoch: int, figures: Mapping[str, _HasTop1]) -> BestModel:
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
