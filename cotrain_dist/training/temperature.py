"""Temperatures of both models, fitted to labels that they have not seen (recipes; Guo et al. 2017).

After Step 1 alone: in later rounds a model has learned what both have said of U, and nothing is
left that it has not seen.
"""

import torch
from torch import Tensor

from cotrain_dist.method.heads import held_out_logits
from cotrain_dist.method.splits import Split
from cotrain_dist.method.temperature import fit_temperature
from cotrain_dist.runtime.collectives import all_gather_rows
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import pass_over
from cotrain_dist.training.heads import penalty_and_seed
from cotrain_dist.training.student import Frozen, Student
from cotrain_dist.types import TrainingSet


def fit_temperature_of(student: Student, images: Images, ctx: RunContext) -> float:
    """What a model's logits are to be divided by. Collective over its role group, equal there."""
    if ctx.config.selection.temperature == "off":
        return 1.0
    if student.frozen is not None:
        learned = images.table.labeled(student.role, student.config.pretrain.labels)
        return _of_head(student, student.frozen, learned)
    ids, targets = _unseen(student, images)
    if not len(ids):  # `auto` without a V
        return 1.0
    with ctx.runtime.clock.measure("evaluate"):
        own = pass_over(student, ids, Tensor.cpu, "calibrate", images, ctx)
    return fit_temperature(torch.cat(all_gather_rows(own, student.group)), targets)


def _of_head(student: Student, frozen: Frozen, learned: TrainingSet) -> float:
    """From heads on folds of the labels. No communication: each rank solves the same problem."""
    assert frozen.scaling is not None
    rows = frozen.features.read(learned.sample_ids).double().numpy()
    num_classes = frozen.head.out_features
    penalty, seed = penalty_and_seed(rows, learned, num_classes, frozen.scaling, student.config)
    logits = held_out_logits(
        rows, learned.targets.numpy(), num_classes, penalty, frozen.scaling, seed
    )
    return 1.0 if logits is None else fit_temperature(torch.from_numpy(logits), learned.targets)


def _unseen(student: Student, images: Images) -> tuple[Tensor, Tensor]:
    """Ids and classes of labeled images that a whole model has not learned: the peer's L, or V."""
    if student.config.pretrain.labels == "own":
        labeled = images.table.labeled(student.role.peer, "own")
        return labeled.sample_ids, labeled.targets
    ids = images.table.sample_ids(Split.V)
    return ids, images.table.class_ids[ids]
