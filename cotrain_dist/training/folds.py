"""Without a V: does Step 2 lose anything? Both steps are taken anew without some labels, in folds.

For heads alone, which cost seconds: as many trainings as there are folds. All ranks take part as
in the run itself, with the same functions; nothing is recorded or committed, and a resume begins
with the first fold again.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from cotrain_dist.config import Config, RoleConfig
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.keys import derive_seed
from cotrain_dist.method.certainty import fit_certainty
from cotrain_dist.method.heads import folds_of
from cotrain_dist.method.splits import Split
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.cotrain import train_one_epoch
from cotrain_dist.training.cross_validation import can_cross_validate
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.heads import penalty_and_seed
from cotrain_dist.training.promise import RightByFolds, right_on
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.training.student import Student, with_head_alone
from cotrain_dist.types import ROLES, Exchange, Position, Role, TrainingSet


def has_folds(config: Config) -> bool:
    """Whether both steps can be taken anew without some labels: heads, which both learn all L.

    Not where Step 1 takes no epochs: the heads that the run began with may have seen any label.
    """
    return (
        can_cross_validate(config)
        and config.labels == config.pretrain.labels == "shared"
        and config.pretrain.num_epochs > 0
        and config.cotrain.num_epochs > 0
    )


def right_by_folds(
    students: list[Student],
    start_features: Sequence[FeatureStore],
    images: Images,
    ctx: RunContext,
    *,
    last_epoch: int,
) -> RightByFolds | None:
    """Collective over all ranks: what each model calls right of L, each image in its fold.

    last_epoch: of Step 2, that the run has come to.

    The folds are those of `cross_validate`. An image that is alone in its class counts as all
    others: without it no model knows the class, before as after; for the certainty it counts not
    at all, since the run's own models know that class. None where no class has two images. The
    students stay as they are: copies of their heads are fitted.
    """
    labeled = images.table.labeled(Role.A, "shared")
    seed = derive_seed(ctx.config.seed, "folds")
    folds = torch.from_numpy(folds_of(labeled.targets.numpy(), seed))
    num_folds = int(folds.max()) + 1
    if num_folds == 1:
        return None
    with ctx.runtime.progress.excused():  # many fits, of which none tells how far it is
        configs = [_with_penalty(student, labeled) for student in students]
    before, after = ({role: torch.zeros(len(folds)).bool() for role in ROLES} for _ in range(2))
    confidences, is_right = torch.zeros(len(folds)), torch.zeros(len(folds)).bool()
    for fold in range(num_folds):
        ctx.reporter.say(f"cross-validating Step 2: fold {fold + 1} of {num_folds}")
        held = folds == fold
        ids = labeled.sample_ids[held]
        copies = [_copy_of(*pair) for pair in zip(students, configs, strict=True)]
        without = replace(images, table=_hide_labels(images, ids))
        for student in copies:
            learned = without.table.labeled(student.role, "shared")
            train_epoch(student, learned, "pretrain", Position(), images.pixels, ctx)
        for role in ROLES:
            before[role][held] = right_on(copies, role, ids, without, ctx)
        take_step_two(copies, start_features, without, ctx, last_epoch)
        probs, targets = gather_probs(copies, ids, without, ctx), without.table.class_ids[ids]
        for role in ROLES:
            after[role][held] = probs[role.value].max(dim=1).indices == targets
        tops = probs["ensemble"].max(dim=1)
        confidences[held], is_right[held] = tops.values, tops.indices == targets
    known = labeled.targets.bincount()[labeled.targets] > 1
    return RightByFolds(before, after, fit_certainty(confidences[known], is_right[known]))


def take_step_two(
    students: list[Student],
    start_features: Sequence[FeatureStore],
    images: Images,
    ctx: RunContext,
    last_epoch: int,
) -> None:
    """The epochs of Step 2, without a record. Collective over all ranks."""
    exchanged = Exchange.empty()
    for epoch in range(1, last_epoch + 1):
        _, exchanged, _ = train_one_epoch(
            students, exchanged, Position(epoch), start_features, images, ctx
        )


def _with_penalty(student: Student, labeled: TrainingSet) -> RoleConfig:
    """The settings with the penalty that is chosen on all of L.

    To choose it anew in each fold would cost as much as all the rest, for one of eight values.
    """
    frozen, config = student.frozen, student.config
    assert frozen is not None
    assert frozen.scaling is not None
    rows = frozen.features.read(labeled.sample_ids).double().numpy()
    penalty, _ = penalty_and_seed(rows, labeled, student.num_classes, frozen.scaling, config)
    return replace(config, model=replace(config.model, head_penalty=penalty))


def _copy_of(student: Student, config: RoleConfig) -> Student:
    """The student with a head of its own, so that nothing has to be put back."""
    assert student.frozen is not None
    frozen = replace(student.frozen, head=deepcopy(student.frozen.head))
    return with_head_alone(replace(student, config=config), frozen)


def _hide_labels(images: Images, ids: Tensor) -> SplitTable:
    splits = images.table.splits.clone()
    splits[ids] = Split.U
    return replace(images.table, splits=splits)
