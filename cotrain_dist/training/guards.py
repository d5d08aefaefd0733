"""Whether weights have exploded: what the records of a run say of it, on V or on own labels."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.advice import (
    Watched,
    Weights,
    advise_after_step_one,
    advise_in_step_two,
    weights_of,
)
from cotrain_dist.method.splits import Split
from cotrain_dist.store.records import CotrainRecord, PretrainRecord
from cotrain_dist.training.evaluate import watched_ids
from cotrain_dist.types import ROLES, Role


def watch_step_one(records: Sequence[PretrainRecord], labels: str, table: SplitTable) -> list[str]:
    """Warnings on the models that Step 1 leaves; labels: of Step 1, `own` or `shared`."""
    lines = []
    for role in ROLES:
        last = [record for record in records if record.role == role.value][-1:]
        for record in last:
            if record.train_accuracy is not None:
                fit = watched(record.train_accuracy, table.labeled(role, labels).targets)
                lines += advise_after_step_one(role, fit)
    return lines


def watch_step_two(first: CotrainRecord, now: CotrainRecord, table: SplitTable) -> list[str]:
    """Warnings on the models after an epoch; first: the record of epoch 0."""
    on = "V" if len(table.sample_ids(Split.V)) else "its own labels"
    lines = []
    for role in ROLES:
        lines += advise_in_step_two(role, *_pair(role, first, now, table), on)
    return lines


def weights_by_role(
    first: CotrainRecord, now: CotrainRecord, table: SplitTable
) -> dict[Role, Weights]:
    """What became of both models' weights in Step 2."""
    return {role: weights_of(*_pair(role, first, now, table)) for role in ROLES}


def candidates_of(weights: Mapping[Role, Weights], *, has_figures: bool) -> list[Role]:
    """Which models may become models/best; maybe none. has_figures: whether T or folds choose."""
    found = [role for role in ROLES if weights[role] != "fallen"]
    if has_figures:
        return found
    return [role for role in found if weights[role] == "well"] or found


def watched(top1: float, class_ids: Tensor) -> Watched:
    """The numbers behind a top-1 (0..1). class_ids: [n] int64, of the images that it is of."""
    num_images = len(class_ids)
    return Watched(round(top1 * num_images), num_images, int(class_ids.bincount().max()))


def _pair(
    role: Role, first: CotrainRecord, now: CotrainRecord, table: SplitTable
) -> tuple[Watched, Watched]:
    """A model now and at the start of Step 2."""
    class_ids = table.class_ids[watched_ids(role, table)]
    return watched(_top1(now, role), class_ids), watched(_top1(first, role), class_ids)


def _top1(record: CotrainRecord, role: Role) -> float:
    if record.validation is not None:
        return record.validation[role.value].top1
    own = record.roles[role.value].own_accuracy
    assert own is not None  # measured wherever there is no V
    return own
