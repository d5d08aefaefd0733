"""`cotrain.keep_step_one`: models/best is of Step 2 only where V shows that it loses nothing.

Without a V, folds of L show it where they cost little (`training/folds.py`). T decides nothing
here. Every rank holds the same records and the same bits, and comes to the same end by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.method.certainty import Certainty
from cotrain_dist.method.promise import CONFIDENCE, SignTest, shows_no_loss, sign_test
from cotrain_dist.method.scores import to_probs
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.collectives import together
from cotrain_dist.store.records import CotrainRecord, CrossValidation
from cotrain_dist.training.commits import BestModel, CotrainState
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import gather_by_role, pass_over
from cotrain_dist.training.exports import better_model, publish, save_best
from cotrain_dist.training.student import Classifier, Student
from cotrain_dist.types import ROLES, Role

CROSS_VALIDATION = "cross-validation on L"
"""What models/best is chosen on without a V, where both models are heads."""

STEP_ONE = "step_one_"
"""Before the role: names of the folders in models/ that hold the models of Step 1."""


def right_on_validation(
    students: Sequence[Classifier], role: Role, images: Images, ctx: RunContext
) -> Tensor:
    """Collective over all ranks: which images of V a role's model calls right.

    [n] bool in the order of V, the same on every rank.
    """
    return right_on(students, role, images.table.sample_ids(Split.V), images, ctx)


def right_on(
    students: Sequence[Classifier], role: Role, ids: Tensor, images: Images, ctx: RunContext
) -> Tensor:
    """Collective over all ranks: which labeled images a role's model calls right.

    ids: [n] int64. Returns [n] bool in their order, the same on every rank.
    """
    rt = ctx.runtime
    with rt.clock.measure("evaluate"):
        shards = {
            student.role: pass_over(student, ids, _labels_of, "measure", images, ctx)
            for student in students
            if student.role is role
        }
    rt.wait_for_all()
    with rt.clock.measure("evaluate"):
        labels = gather_by_role(shards, torch.empty(0, dtype=torch.int64), rt)[role]
    return labels == images.table.class_ids[ids]


def _labels_of(logits: Tensor) -> Tensor:
    """[n, C] -> [n] int64 on the CPU, by the probabilities, as accuracy is counted."""
    return to_probs(logits).max(dim=1).indices.cpu()


@dataclass(frozen=True)
class Settled:
    """What becomes models/best at a run's end."""

    best: BestModel
    chosen_on: str
    why: str
    test: SignTest | None = None
    """None where there was nothing to hold against Step 1, or no image to do it on."""

    @property
    def is_of_step_one(self) -> bool:
        """Whether it is one of the models that were kept."""
        return self.best.epoch == 0

    @property
    def line(self) -> str:
        """For the console."""
        where = "Step 1" if self.is_of_step_one else f"epoch {self.best.epoch}"
        return f"models/best is {self.best.role.upper()} of {where}: {self.why}"

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        test = {} if self.test is None else asdict(self.test) | {"confidence": CONFIDENCE}
        return {**asdict(self.best), "chosen_on": self.chosen_on, "why": self.why, **test}


def settle_on_validation(
    first: CotrainRecord, last: CotrainRecord, right_before: Tensor, right_after: Tensor
) -> Settled:
    """The better model of the last epoch where V shows that it loses nothing, else that of Step 1.

    first: the record of epoch 0. right_before, right_after: [n] bool, which images of V the better
    model of Step 1 and that of the last epoch call right.
    """
    # The last epoch's and not the best epoch's: V would then have chosen among twenty epochs what
    # it is to judge. In a simulation of models that differ by chance alone, 18 to 31 in 100 passed
    # so, and 3 to 4 as it is.
    assert first.validation is not None
    assert last.validation is not None
    before = better_model(0, first.validation, ROLES)
    if last.epoch == 0:
        return Settled(before, "V", "Step 2 has no epochs")
    after = better_model(last.epoch, last.validation, ROLES)
    return _the_later_if_it_loses_nothing(before, after, (right_before, right_after), "V", "V")


@dataclass(frozen=True)
class RightByFolds:
    """Which labeled images each model calls right that has not seen their labels.

    before, after: of Step 1 and of the last epoch of Step 2, by role [n] bool in the order of L;
    the same on every rank.
    """

    before: Mapping[Role, Tensor]
    after: Mapping[Role, Tensor]
    certainty: Certainty | None = None
    """How often both together are right after Step 2, by their confidence (`labels`)."""


def settle_by_folds(last_epoch: int, found: RightByFolds) -> Settled:
    """Without a V: the better model of the last epoch where L shows that it loses nothing.

    last_epoch: at least 1. Figures of models that have learned four labels in five.
    """
    before, after = _better_on(0, found.before), _better_on(last_epoch, found.after)
    rights = found.before[Role(before.role)], found.after[Role(after.role)]
    return _the_later_if_it_loses_nothing(before, after, rights, CROSS_VALIDATION, "L")


def _better_on(epoch: int, right: Mapping[Role, Tensor]) -> BestModel:
    """The role that is right on more images; of equals A, as everywhere."""
    role = max(ROLES, key=lambda role: int(right[role].sum()))
    return BestModel(role.value, epoch, int(right[role].sum()) / len(right[role]))


def _the_later_if_it_loses_nothing(
    before: BestModel, after: BestModel, rights: tuple[Tensor, Tensor], judge: str, split: str
) -> Settled:
    """rights: [n] bool of `before` and of `after`, on the images that the split's name stands for.

    judge: what is said to show it.
    """
    test = sign_test(*rights)
    counts = (
        f"of {len(rights[0])} images of {split} it gains {test.num_gained} and loses "
        f"{test.num_lost} (p {test.p_value:.2g})"
    )
    if shows_no_loss(*rights):
        return Settled(after, judge, f"{judge} shows that it loses nothing, {counts}", test)
    which = f"{after.role.upper()} of epoch {after.epoch}"
    why = f"{judge} does not show that {which} loses nothing, {counts}"
    return Settled(before, judge, why, test)


def settle_without_validation(first: CotrainRecord, found: CrossValidation | None) -> Settled:
    """Without a V and folds, what becomes models/best: the better model of Step 1, by L.

    found: heads on labels alone, by cross-validation; without it the own labels of each decide.
    """
    why = "without a V nothing shows what Step 2 loses; data.validation_fraction: 0.1 draws one"
    if found is not None:
        return Settled(better_model(0, found.of, ROLES), CROSS_VALIDATION, why)
    own = {role.value: first.roles[role.value].own_accuracy or 0.0 for role in ROLES}
    # Of equals A, as everywhere.
    return Settled(BestModel(max(own, key=lambda name: own[name]), 0, None), "own labels", why)


def settle(
    students: list[Student],
    state: CotrainState,
    records: tuple[CotrainRecord, CotrainRecord],
    found: CrossValidation | RightByFolds | None,
    images: Images,
    ctx: RunContext,
) -> Settled:
    """Collective over all ranks: write models/best, and say which and why.

    records: of epoch 0 and of the last one. found: without a V what L says, as in
    `settle_by_folds` or `settle_without_validation`.
    """
    first, last = records
    if isinstance(found, RightByFolds):
        settled = settle_by_folds(last.epoch, found)
    elif last.validation is None:
        settled = settle_without_validation(first, found)
    else:
        role = Role(better_model(last.epoch, last.validation, ROLES).role)
        after = right_on_validation(students, role, images, ctx)
        assert state.right_before is not None
        settled = settle_on_validation(first, last, state.right_before, after)
    best, notes = settled.best, {"chosen_on": settled.chosen_on, "note": settled.why}
    if settled.is_of_step_one:
        kept = partial(publish, f"{STEP_ONE}{best.role}", best, notes, ctx.store)
        together(lambda: kept() if ctx.runtime.is_lead else None, ctx.runtime.control)
    else:
        save_best(students, best, notes, images.table.class_names, ctx.store)
    ctx.reporter.say(settled.line)
    return settled
