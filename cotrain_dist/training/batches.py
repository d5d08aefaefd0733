"""What the steps of an epoch learn from: batches on this rank's device, in order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from cotrain_dist.data.stream import PixelSource
from cotrain_dist.method.mixing import draw_mixing, draw_partners, mix_batch
from cotrain_dist.method.steps import EpochPlan
from cotrain_dist.training.student import Student
from cotrain_dist.types import Batch, TrainingSet, Unlabeled

Key = tuple[int | str, ...]

Part = tuple[Tensor, Key]
"""Rows of a training set, [n] int64, and the key that their views are drawn by."""


def load_batches(
    student: Student,
    learned: TrainingSet,
    plan: EpochPlan,
    steps: Iterable[int],
    key: Key,
    pixels: PixelSource,
) -> Iterator[Batch]:
    """The micro-batches of this rank in some steps. Rows without a target become `unlabeled`."""
    parts = [
        (rows, (*key, step) if plan.repeats else key)
        for step in steps
        for shard in student.shards
        for rows in plan.micro_batches(step, shard)
    ]
    if not student.teachers:
        yield from _labeled(student, learned, parts, pixels)
        return
    is_labeled = learned.targets >= 0
    labeled = [(rows[is_labeled[rows]], key) for rows, key in parts]
    others = [(rows[~is_labeled[rows]], key) for rows, key in parts]
    for batch, unlabeled in zip(
        _labeled(student, learned, labeled, pixels),
        _unlabeled(student, learned, others, pixels),
        strict=True,
    ):
        yield replace(batch, unlabeled=unlabeled)


def _labeled(
    student: Student, learned: TrainingSet, parts: Sequence[Part], pixels: PixelSource
) -> Iterator[Batch]:
    """Rows that have a target. A second view is one more call of `augmented`, by another key."""
    read = pixels.batches(student.train_view, [learned.sample_ids[rows] for rows, _ in parts])
    for (rows, key), batch in zip(parts, read, strict=True):
        sample_ids = learned.sample_ids[rows]
        strong = None if learned.is_strong is None else learned.is_strong[rows]
        yield Batch(
            views=(student.augmented(batch, sample_ids, *key, is_strong=strong),),
            targets=learned.targets[rows].to(student.device, non_blocking=True),
            is_pseudo=learned.is_pseudo[rows].to(student.device, non_blocking=True),
            weights=(
                None
                if learned.weights is None
                else learned.weights[rows].to(student.device, non_blocking=True)
            ),
            probs=(
                None
                if learned.soft is None
                else learned.probs_of(rows, student.num_classes).to(
                    student.device, non_blocking=True
                )
            ),
        )


def _unlabeled(
    student: Student, learned: TrainingSet, parts: Sequence[Part], pixels: PixelSource
) -> Iterator[Unlabeled]:
    """Strong views for the student, weak ones of the same images for its teachers."""
    ids = [learned.sample_ids[rows] for rows, _ in parts]
    # A teacher of the student's own size sees what has been read for it.
    views = list(dict.fromkeys([student.train_view, *(own.view for own in student.teachers)]))
    reads = zip(*(pixels.batches(view, ids) for view in views), strict=True)
    for (_, key), sample_ids, read in zip(parts, ids, reads, strict=True):
        in_view = dict(zip(views, read, strict=True))
        yield Unlabeled(
            strong=student.strong_view(in_view[student.train_view], sample_ids, *key),
            weak=tuple(
                # Another key than the strong view's: else both would be cut from one place.
                student.weak_view(teacher, in_view[teacher.view], sample_ids, "weak", *key)
                for teacher in student.teachers
            ),
        )


def mix_batches(
    student: Student, batches: Iterator[Batch], num_micro: int, steps: Iterable[int], key: Key
) -> Iterator[Batch]:
    """Each micro-batch with its labeled images mixed, as `train.mixup` and `train.cutmix` say."""
    train = student.config.train
    for step in steps:
        # By the step alone: all ranks mix in one way.
        mixing = draw_mixing(train.mixup, train.cutmix, *key, step)
        for micro in list(range(num_micro)) * len(student.shards):
            batch = next(batches)
            partners = draw_partners(len(batch.targets), *key, step, micro)
            mixed = mix_batch(batch, mixing, partners, student.num_classes)
            yield replace(mixed, views=tuple(student.in_layout(view) for view in mixed.views))
