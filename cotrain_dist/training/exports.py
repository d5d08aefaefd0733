"""The models that a run leaves: a and b of the last epoch, and the best."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from cotrain_dist.config.starts import CONFIG
from cotrain_dist.method.metrics import Accuracy
from cotrain_dist.models import save_model
from cotrain_dist.store.atomic import replaced_folder
from cotrain_dist.store.records import CrossValidation
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.store.shared import wait_until_seen
from cotrain_dist.training.commits import BestModel, CotrainState
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES, Role

CHOSEN_ON_T = "chosen on T: its accuracy on T is optimistic; data.validation_fraction draws a V"


def export_models(
    students: list[Student],
    epoch: int,
    class_names: Sequence[str],
    store: RunDirectory,
    prefix: str = "",
) -> None:
    """Write models/a and models/b, with a prefix to their names; each role's lead rank its own."""
    for student in students:
        if student.is_lead:
            name = f"{prefix}{student.role.value}"
            _save(student, name, {"epoch": epoch}, class_names, store)


def export_early(student: Student, class_names: Sequence[str], store: RunDirectory) -> None:
    """Write a model within Step 1, so that there is one whenever the run is cut short.

    Step 2 has not chosen yet, and the roles do not meet here: models/best is that of A.
    """
    if not student.is_lead:
        return
    for name in (student.role.value, *(["best"] if student.role is Role.A else [])):
        _save(student, name, {"epoch": 0, "chosen_on": "nothing"}, class_names, store)


def note_best(
    state: CotrainState, epoch: int, validation: Mapping[str, Accuracy]
) -> BestModel | None:
    """The model that beats all before it on V, `state.best` by now; None where none does.

    The earlier one wins a tie.
    """
    best = better_model(epoch, validation, ROLES)
    if state.best is not None and _top1(best) <= _top1(state.best):
        return None
    # On every rank, though one alone saves the model: all must agree on what the next one has to
    # beat.
    state.best = best
    return best


def choose_without_validation(
    epoch: int,
    test: Mapping[str, Accuracy] | None,
    found: CrossValidation | None,
    roles: Sequence[Role],
) -> tuple[BestModel, dict[str, Any]]:
    """Which role's model is models/best, and notes on why: by T, by cross-validation, or the first.

    roles: those that may be it, at least one; of equals the first.
    """
    if test is not None:
        notes = {"chosen_on": "T", "note": CHOSEN_ON_T}
        return better_model(epoch, test, roles), notes
    if found is not None:
        return better_model(epoch, found.of, roles), {"chosen_on": "cross-validation on L"}
    return BestModel(roles[0].value, epoch, None), {"chosen_on": "nothing"}


def _top1(best: BestModel) -> float:
    assert best.top1 is not None
    return best.top1


class _HasTop1(Protocol):
    @property
    def top1(self) -> float: ...


def better_model(epoch: int, figures: Mapping[str, _HasTop1], roles: Sequence[Role]) -> BestModel:
    """The role with the highest figure, of some roles."""
    # max() takes the first of equals: the same on every rank, as the figures are.
    role = max(roles, key=lambda role: figures[role.value].top1)
    return BestModel(role.value, epoch, figures[role.value].top1)


def save_best(
    students: list[Student],
    best: BestModel,
    notes: dict[str, Any],
    class_names: Sequence[str],
    store: RunDirectory,
) -> None:
    """Write models/best; the lead rank of its role."""
    for student in students:
        if student.role.value == best.role and student.is_lead:
            _save(student, "best", asdict(best) | notes, class_names, store)


def publish(name: str, best: BestModel, notes: dict[str, Any], store: RunDirectory) -> None:
    """Make a model that lies in models/ models/best as well; on one rank."""
    source = store.models / name
    wait_until_seen(source / CONFIG)
    settings = json.loads((source / CONFIG).read_text())
    settings["cotrain_dist"] |= asdict(best) | notes
    with store.fenced(), replaced_folder(store.models / "best") as beside:
        shutil.copytree(source, beside, dirs_exist_ok=True)
        (beside / CONFIG).write_text(json.dumps(settings, indent=2))


def _save(
    student: Student,
    name: str,
    notes: dict[str, Any],
    class_names: Sequence[str],
    store: RunDirectory,
) -> None:
    notes = {"run_id": store.run_id, "role": student.role.value} | notes
    folder = store.models / name
    with store.fenced():
        folder.parent.mkdir(exist_ok=True)
        save_model(student.exported, folder, student.preprocessing, class_names, notes)
