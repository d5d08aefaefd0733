"""Consistency within a step: teachers label weak views of U, the student learns strong ones.

Teachers are asked in evaluation mode: a label then depends on no other image of the batch. FixMatch
asks its model in training mode, labeled and unlabeled images in one batch.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cotrain_dist.method.consistency import (
    FreeState,
    consistency_loss,
    fairness_loss,
    fixed_thresholds,
    follow,
    free_thresholds,
    make_lesson,
    sharpen,
    sum_labels,
    sum_strong,
)
from cotrain_dist.method.losses import batch_loss
from cotrain_dist.method.scores import to_probs
from cotrain_dist.method.steps import EpochPlan, consistency_shares
from cotrain_dist.runtime.collectives import RankGroup, sum_over
from cotrain_dist.training.student import Student, Teacher
from cotrain_dist.types import Batch, Unlabeled


def begin_consistency(student: Student) -> None:
    """Give a student its teachers for Step 2; none where consistency.teacher is off."""
    student.teachers = teachers_of(student)
    if student.teachers and student.config.consistency.policy == "free":
        student.free = FreeState.at_start(student.num_classes, student.device)


def teachers_of(student: Student) -> tuple[Teacher, ...]:
    """Who labels weak views for a student; of several the mean counts."""

    def own(model: nn.Module) -> Teacher:
        return Teacher(model, student.train_view, student.preprocessing)

    peer = () if student.peer is None else (student.peer,)
    match student.config.consistency.teacher:
        case "off":
            return ()
        case "own":
            return (own(student.model),)
        case "ema":
            return (own(student.predictor),)
        case "peer":
            return peer
        case "both":
            return (own(student.predictor), *peer)


@dataclass
class Tally:
    """How many unlabeled images were used, counted on the device: reading it would wait."""

    num_used: Tensor
    num: int = 0

    @classmethod
    def none(cls, device: torch.device) -> "Tally":
        """Of no image."""
        return cls(torch.zeros((), dtype=torch.int64, device=device))

    @classmethod
    def restored(cls, counts: Mapping[str, Tensor], device: torch.device) -> "Tally":
        """What `counts` gave."""
        return cls(counts["num_used"].to(device), int(counts["num_asked"]))

    def counts(self) -> dict[str, Tensor]:
        """As scalars by name, for a commit within an epoch."""
        return {"num_used": self.num_used, "num_asked": torch.tensor(self.num)}

    def fraction_over(self, group: RankGroup) -> float:
        """Collective over a role group: the used fraction of the images of all its ranks."""
        num_used, num = sum_over(torch.tensor([int(self.num_used), self.num]), group).tolist()
        return float(num_used / num)


def teach_batches(
    student: Student, batches: Iterator[Batch], plan: EpochPlan, tally: Tally
) -> Iterator[Batch]:
    """The batches with the teachers' labels. With policy free collective over the role group.

    Whoever asks for the first micro-batch of a step has taken the step before: the labels of all
    micro-batches of a step are made then, from one state of the weights.
    """
    config = student.config.consistency
    num_steps = len(plan.steps) * student.config.cotrain.num_schedule_epochs
    momentum = max(0.0, 1.0 - 10.0 / num_steps) if config.momentum is None else config.momentum
    while step := list(itertools.islice(batches, len(student.shards) * plan.num_micro)):
        probs = [_ask(student, batch.unlabeled) for batch in step if batch.unlabeled is not None]
        thresholds = _thresholds(student, torch.cat(probs), momentum)
        for batch, own in zip(step, probs, strict=True):
            lesson = make_lesson(own, thresholds, config.targets)
            tally.num_used += lesson.is_used.sum()
            tally.num += len(own)
            yield replace(batch, lesson=lesson)


@torch.no_grad()
def _ask(student: Student, unlabeled: Unlabeled) -> Tensor:
    """The mean of the teachers' probabilities, [m, C] float32."""
    probs = [
        to_probs(
            sharpen(teacher.model.eval()(images).float(), student.config.consistency.temperature)
        )
        for teacher, images in zip(student.teachers, unlabeled.weak, strict=True)
    ]
    student.trained.train()  # it may be its own teacher
    return torch.stack(probs).mean(dim=0)


def _thresholds(student: Student, probs: Tensor, momentum: float) -> Tensor:
    """The thresholds of a step by class, [C] float64. With policy free the state moves on.

    probs: [m, C], of all images that this rank has in the step.
    """
    config = student.config.consistency
    if student.free is None:
        return fixed_thresholds(config.threshold, probs.shape[1], probs.device)
    sums = sum_over(sum_labels(probs), student.device_group)
    student.free = follow(student.free, sums, momentum)
    return free_thresholds(student.free)


def taught_loss(student: Student, batch: Batch) -> Tensor:
    """The loss of a batch with a lesson. With consistency.fairness collective over the role group.

    In a step: the mean loss of its labeled images, plus `weight` times that of all its unlabeled
    ones, the unused included, as a sum over its images: `train_step` divides by their number.
    """
    train, config = student.config.train, student.config.consistency
    unlabeled, lesson = batch.unlabeled, batch.lesson
    assert unlabeled is not None
    assert lesson is not None
    # In one pass: batch normalization sees both kinds of images, and DDP reduces once.
    logits = student.trained(torch.cat([batch.views[0], unlabeled.strong]))
    labeled, strong = logits.split([len(batch.targets), len(unlabeled.strong)])
    num_labeled, num_unlabeled = consistency_shares(train.batch_size, config.ratio)
    loss = batch_loss(train.loss, [labeled], batch, label_smoothing=train.label_smoothing)
    loss = loss / num_labeled + config.weight / num_unlabeled * consistency_loss(strong, lesson)
    if config.fairness:
        loss = loss + config.fairness * _fairness(student, strong, lesson.is_used)
    return loss * train.batch_size


def _fairness(student: Student, strong: Tensor, is_used: Tensor) -> Tensor:
    """Collective over the role group: what this rank adds to the fairness loss of a step."""
    assert student.free is not None
    own, sums = sum_strong(strong, is_used)
    sums = sum_over(sums, student.device_group)
    whole = fairness_loss(student.free, own, sums).float()
    # All ranks find the same value, and it counts once; of the gradient each has its own part.
    return whole - whole.detach() * (1.0 - 1.0 / student.group.size)
