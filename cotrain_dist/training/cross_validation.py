"""Without T and V: how good heads are is estimated on labeled images that they have not seen.

With few labels none has to be spent on measuring. The estimate is one of heads on labels alone,
over images that a person has labeled: where those were chosen (`queue`), they are no random sample
of all images, and only a T that is drawn at random says how a model does on those.
"""

import torch
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.method.heads import held_out_probs
from cotrain_dist.method.metrics import measure_accuracy
from cotrain_dist.method.statistics import wilson_interval
from cotrain_dist.runtime.collectives import all_gather_rows
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.records import CrossValidation, Estimate
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.heads import penalty_and_seed
from cotrain_dist.training.student import Student
from cotrain_dist.types import ROLES, Role, TrainingSet


def cross_validate(
    students: list[Student], images: Images, ctx: RunContext
) -> CrossValidation | None:
    """Collective over all ranks; equal on all of them. None where no class has two labeled images.

    The penalty is the one chosen on all labels: to choose it anew for each fold would cost as much
    as all the rest, for one of eight values.
    """
    labels = ctx.config.labels if ctx.config.cotrain.num_epochs else ctx.config.pretrain.labels
    num_classes = len(images.table.class_names)
    probs, learned = {}, {role: images.table.labeled(role, labels) for role in ROLES}
    own = {
        student.role: _held_out(student, learned[student.role])
        for student in students
        if student.is_lead
    }
    for role in ROLES:
        nothing = torch.empty(0, num_classes)
        probs[role] = torch.cat(all_gather_rows(own.get(role, nothing), ctx.runtime.control))
        if not len(probs[role]):
            return None
    of = {role.value: _estimate(probs[role], learned[role].targets) for role in ROLES}
    if labels == "shared":
        mean = (probs[Role.A] + probs[Role.B]) / 2
        of["ensemble"] = _estimate(mean, learned[Role.A].targets)
    targets = torch.cat([learned[role].targets for role in ROLES[: 1 if labels == "shared" else 2]])
    return CrossValidation(
        num_images=len(targets),
        num_alone=int((targets.bincount() == 1).sum()),
        of=of,
    )


def can_cross_validate(config: Config) -> bool:
    """Whether folds cost seconds: heads, not whole trainings."""
    return config.model_a.train == config.model_b.train == "head"


def no_test_line(config: Config, *, has_validation: bool) -> str:
    """What a run without T says of how it is measured, in its first lines."""
    if has_validation:
        return "no T: accuracy is measured on V, which also chooses models/best"
    if can_cross_validate(config):
        return "no T: accuracy is estimated by cross-validation on L, at the end"
    return (
        "no T and no V: accuracy is not measured, and models/best is A; data.test_fraction or "
        "data.test gives a T"
    )


def tell_estimate(found: CrossValidation, reporter: Reporter) -> None:
    """The figures, and what they are about."""
    shown = ", ".join(
        f"{name if len(name) > 1 else name.upper()} {own.top1:.1%} "
        f"({own.low:.1%} to {own.high:.1%})"
        for name, own in found.of.items()
    )
    reporter.say(f"accuracy by cross-validation on L, with its 95 % interval: {shown}")
    reporter.say(
        f"that is on the {found.num_images} labeled images, by heads on labels alone; "
        "chosen labels are no random sample of all images, for those draw a T at random "
        "(data.test_fraction)"
    )
    if found.num_alone:
        reporter.say(f"{found.num_alone} of them are alone in their class, and count as wrong")


def _held_out(student: Student, learned: TrainingSet) -> Tensor:
    """[n, C] float32, each row under a head that has not seen it; [0, C] where none can be."""
    frozen = student.frozen
    assert frozen is not None
    assert frozen.scaling is not None
    rows = frozen.features.read(learned.sample_ids).double().numpy()
    num_classes = frozen.head.out_features
    penalty, seed = penalty_and_seed(rows, learned, num_classes, frozen.scaling, student.config)
    targets = learned.targets.numpy()
    found = held_out_probs(rows, targets, num_classes, penalty, frozen.scaling, seed)
    return torch.empty(0, num_classes) if found is None else torch.from_numpy(found).float()


def _estimate(probs: Tensor, targets: Tensor) -> Estimate:
    top1 = measure_accuracy(probs, targets).top1
    low, high = wilson_interval(round(top1 * len(targets)), len(targets))
    return Estimate(top1=top1, low=low, high=high)
