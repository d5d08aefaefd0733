"""`train: head`: a student's last layer is fitted to all its rows at once, on every rank alike."""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from cotrain_dist.config import RoleConfig
from cotrain_dist.keys import derive_seed
from cotrain_dist.method.heads import (
    Floats,
    Head,
    Ints,
    Scaling,
    choose_penalty,
    fit_head,
    scaling_of,
)
from cotrain_dist.method.soft_heads import fit_soft_head
from cotrain_dist.method.splits import Split
from cotrain_dist.method.weights import weigh_labeled
from cotrain_dist.models import head_of
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.store.records import Fit
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.features import fill_store, open_store
from cotrain_dist.training.student import Frozen, Student, with_head_alone
from cotrain_dist.types import TrainingSet

MAX_SCALING_ROWS = 20_000
"""Rows that center and scale are taken from: more would change digits that nobody sees."""


def freeze_backbone(student: Student, images: Images, ctx: RunContext) -> Student:
    """The student whose last layer alone is trained. Collective over the role group.

    The features of all images are computed first, where they are not kept already.
    """
    head = head_of(student.whole, f"model_{student.role.value}.train")
    digests = images.table.listing.digests
    store = open_store(student.whole, head, student.preprocessing, digests, ctx.config.data)
    with ctx.runtime.clock.measure("features"):
        fill_store(store, student, images.pixels, ctx.reporter, images.table.usable_ids)
    frozen = Frozen(head.cpu(), store, scaling_of_images(store, images))
    return with_head_alone(student, frozen)


LEAST_BIAS = -20.0
"""Of a class without a labeled image, where the whole model is trained on: a loss that smooths its
labels would not bear NEVER."""


def begin_with_fitted_head(student: Student, images: Images, ctx: RunContext) -> None:
    """`pretrain.fit_head`: fit the last layer of a whole model to its labels, as it begins.

    Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): steps from a random last
    layer would first undo what the start knows. Collective over the role group: the features of the
    labeled images are computed where they are not kept; every rank then solves the same problem.
    """
    config = student.config.pretrain
    if student.frozen is not None or not (config.fit_head and config.num_epochs):
        return
    learned = images.table.labeled(student.role, config.labels)
    head = head_of(student.whole, f"model_{student.role.value}.name")
    digests = images.table.listing.digests
    store = open_store(student.whole, head, student.preprocessing, digests, ctx.config.data)
    with ctx.runtime.clock.measure("features"):
        fill_store(store, student, images.pixels, ctx.reporter, learned.sample_ids)
    with ctx.runtime.progress.excused():  # to choose the penalty takes a while and tells nothing
        rows = store.read(learned.sample_ids).double().numpy()
        fitted = fit_rows(rows, learned, student.num_classes, scaling_of(rows), student.config)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.weight))
        head.bias.copy_(torch.from_numpy(fitted.bias).clamp(min=LEAST_BIAS))
    if student.ema is not None:
        student.ema.restart(student.model)


def scaling_of_images(store: FeatureStore, images: Images) -> Scaling:
    """Center and scale over images that are learned from: their labels do not matter."""
    unseen = torch.tensor([Split.T, Split.V, Split.OUT])
    return scaling_over(store, (~torch.isin(images.table.splits, unseen)).nonzero().flatten())


def scaling_over(store: FeatureStore, sample_ids: Tensor) -> Scaling:
    """Center and scale over some images, thinned out where they are very many."""
    ids = sample_ids[:: max(1, -(-len(sample_ids) // MAX_SCALING_ROWS))]
    return scaling_of(store.read(ids).double().numpy())


def fit_student(frozen: Frozen, config: RoleConfig, learned: TrainingSet) -> Fit:
    """Fit the last layer to a training set. No communication: every rank solves the same problem.

    So no rank waits, and the head has the same bits in every world. A fit to soft targets begins
    from the head that there is, which is that of the last commit after a resume as well.
    """
    assert frozen.scaling is not None
    rows = frozen.features.read(learned.sample_ids).double().numpy()
    start = None if learned.soft is None else _head_of(frozen)
    head = fit_rows(rows, learned, frozen.head.out_features, frozen.scaling, config, start)
    with torch.no_grad():
        frozen.head.weight.copy_(torch.from_numpy(head.weight))
        frozen.head.bias.copy_(torch.from_numpy(head.bias))
    return Fit(
        loss=head.loss, learning_rate=0.0, num_steps=head.num_iterations, num_samples=len(learned)
    )


def _head_of(frozen: Frozen) -> Head:
    weight = frozen.head.weight.detach().double().numpy()
    bias = frozen.head.bias.detach().double().numpy()
    return Head(weight, bias, loss=math.nan, num_iterations=0)


def fit_rows(
    rows: Floats,
    learned: TrainingSet,
    num_classes: int,
    scaling: Scaling,
    config: RoleConfig,
    start: Head | None = None,
) -> Head:
    """The head for rows [n, F] float64, the features of a training set of n images.

    start: where a fit to soft targets begins.
    """
    learned = weigh_labeled(
        learned,
        least_fraction=config.train.least_labeled_fraction,
        class_balanced=config.train.class_balanced,
    )
    penalty, _ = penalty_and_seed(rows, learned, num_classes, scaling, config)
    weights = None if learned.weights is None else learned.weights.double().numpy()
    if learned.soft is not None:
        probs = learned.probs_of(torch.arange(len(learned)), num_classes).numpy()
        return fit_soft_head(rows, probs, penalty, scaling, weights, start)
    return fit_head(rows, learned.targets.numpy(), num_classes, penalty, scaling, weights)


def penalty_and_seed(
    rows: Floats, learned: TrainingSet, num_classes: int, scaling: Scaling, config: RoleConfig
) -> tuple[float, int]:
    """The penalty, given or chosen by cross-validation, and the seed that deals out its folds."""
    seed, penalty = derive_seed(config.seed, "folds"), config.model.head_penalty
    if penalty is None:
        # On the rows that a person has labeled: a function of them alone, so a resume agrees.
        given = (~learned.is_pseudo).numpy()
        targets = learned.targets.numpy()[given]
        penalty = _penalty_of(rows[given], targets, num_classes, scaling, seed)
    return penalty, seed


KEPT_PENALTIES: dict[str, float] = {}
"""By a digest of all that decides them. Each epoch asks for the one of the same labels, and to
choose it takes longer than the fit (10 s for 612 labels of Caltech-101)."""


def _penalty_of(
    rows: Floats, targets: Ints, num_classes: int, scaling: Scaling, seed: int
) -> float:
    digest = hashlib.sha256(repr((rows.shape, num_classes, scaling.factor, seed)).encode())
    for values in (rows, targets, scaling.center):
        digest.update(np.ascontiguousarray(values).tobytes())
    key = digest.hexdigest()
    if key not in KEPT_PENALTIES:
        KEPT_PENALTIES[key] = choose_penalty(rows, targets, num_classes, scaling, seed)
    return KEPT_PENALTIES[key]
