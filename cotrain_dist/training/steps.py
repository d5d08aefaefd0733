"""Training steps: the same in every world."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cotrain_dist.config import TrainConfig
from cotrain_dist.data.stream import PixelSource
from cotrain_dist.errors import UserError
from cotrain_dist.keys import seeded
from cotrain_dist.method.losses import batch_loss
from cotrain_dist.method.shares import mix_steps, smallest_step_up_to
from cotrain_dist.method.steps import EpochPlan, plan_consistency, plan_epoch
from cotrain_dist.runtime.collectives import RankGroup, sum_over
from cotrain_dist.store.records import Fit
from cotrain_dist.training.batches import load_batches, mix_batches
from cotrain_dist.training.consistency import Tally, taught_loss, teach_batches
from cotrain_dist.training.context import RunContext
from cotrain_dist.training.exact import round_loss
from cotrain_dist.training.finite import (
    BeforeStep,
    LossGuard,
    has_finite_gradient,
    has_finite_weights,
    skips,
    spread_to_gradient,
)
from cotrain_dist.training.heads import fit_student
from cotrain_dist.training.student import Student, average_buffers
from cotrain_dist.training.within import Progress, Within
from cotrain_dist.types import Batch, Position, Role, TrainingSet


def train_epoch(
    student: Student,
    learned: TrainingSet,
    phase: str,
    start: Position,
    pixels: PixelSource,
    ctx: RunContext,
) -> Fit:
    """Train one epoch on a training set, from `start` on. Collective over the role group.

    Order, augmentation and dropout are keyed by seed, role, phase and epoch: what the other role
    does, or did, changes no bit. The figures are those of the steps taken here. With `train: head`
    an epoch is one fit, whose steps are the iterations of its solver.
    """
    if student.frozen is not None:
        with ctx.runtime.clock.measure("train"), ctx.runtime.progress.excused():
            return fit_student(student.frozen, student.config, learned)
    # The number of steps follows from what is learned alone, so the two roles may take different
    # ones: nothing within an epoch waits for the other role.
    plan = plan_of(student, learned, epoch_key(student, phase, start.epoch))
    return train_steps(student, learned, plan, phase, start, pixels, ctx)


def plan_of(student: Student, learned: TrainingSet, key: tuple[int | str, ...]) -> EpochPlan:
    """Which rows each step of an epoch learns, and which of them each rank."""
    train, num_shards = student.config.train, student.num_shards
    if student.teachers:
        return plan_consistency(
            learned.targets >= 0,
            batch_size=train.batch_size,
            ratio=student.config.consistency.ratio,
            num_shards=num_shards,
            num_micro=train.accumulation_steps,
            key=key,
        )
    least = train.least_labeled_fraction if bool(learned.is_pseudo.any()) else 0.0
    if least or train.class_balanced:
        steps = mix_steps(
            learned.is_pseudo,
            learned.targets,
            batch_size=train.batch_size,
            least_labeled_fraction=least,
            class_balanced=train.class_balanced,
            key=key,
        )
        return EpochPlan(steps, num_shards, train.accumulation_steps, repeats=True)
    return plan_epoch(
        len(learned),
        batch_size=train.batch_size,
        num_shards=num_shards,
        num_micro=train.accumulation_steps,
        key=key,
    )


def epoch_key(student: Student, phase: str, epoch: int) -> tuple[int | str, ...]:
    """What every random draw of a model's epoch is keyed by."""
    return student.config.seed, student.role.value, phase, epoch


def train_steps(
    student: Student,
    learned: TrainingSet,
    plan: EpochPlan,
    phase: str,
    start: Position,
    pixels: PixelSource,
    ctx: RunContext,
) -> Fit:
    """Take the steps of a plan from `start` on. Collective over the role group.

    Where a kill has left commits within this epoch, from the last of them on.
    """
    key = epoch_key(student, phase, start.epoch)
    # What was counted of the steps before a kill goes on, so all of them are told of.
    num_samples = sum(map(len, plan.steps[start.step :]))
    student.trained.train()
    with Within(student, phase, start, ctx) as within:
        guard = LossGuard(student, learned, plan, phase, start.epoch, ctx.reporter)
        within.before_commit = guard.check_before_commit
        num_taken, losses, tally = _enter(student, plan, start, within, guard)
        steps, rate = range(num_taken, len(plan.steps)), 0.0
        batches = _batches(student, learned, plan, steps, key, tally, pixels)
        what = f"{phase} {start.epoch}: train {student.role.name}"
        num_left = sum(map(len, plan.steps[num_taken:]))
        with ctx.runtime.clock.measure("train"), ctx.reporter.track(what, num_left) as advance:
            for step in steps:
                # From the position alone: whoever enters in the middle of an epoch trains at the
                # same rate.
                rate = student.schedule.set_rate(start.epoch - 1 + step / len(plan.steps))
                step_key = ("dropout", *key, step)
                step_size = len(plan.steps[step])
                own = train_step(student, batches, plan.num_micro, step_size, step_key)
                guard.note(step, own.total, own.num_skipped)
                losses += own
                advance(step_size)
                if step + 1 < len(plan.steps):  # the last one is followed by the epoch's commit
                    counts = losses.counts() | guard.counts()
                    counts |= {} if tally is None else tally.counts()
                    within.look(Progress(step + 1, counts))
            guard.check()
            average_buffers(student)
            mean_loss = losses.mean_over(student.group)
            used_fraction = None if tally is None else tally.fraction_over(student.group)
    # The losses were taken before the updates, the last of which may have been the bad one.
    if not has_finite_weights(student.model):
        mean_loss = math.nan
    return Fit(
        loss=mean_loss,
        learning_rate=rate,
        num_steps=len(plan.steps) - start.step,
        num_samples=num_samples,
        num_skipped_steps=losses.num_skipped,
        used_fraction=used_fraction,
    )


def _enter(
    student: Student, plan: EpochPlan, start: Position, within: Within, guard: LossGuard
) -> tuple[int, "Losses", Tally | None]:
    """Steps that are behind this epoch, and what was counted in them. Collective over the role."""
    losses = Losses.none(student.device)
    tally = Tally.none(student.device) if student.teachers else None
    found = None if start.step else within.restore(len(plan.steps))
    if found is None:
        return start.step, losses, tally
    guard.restore(found.counts)
    losses = Losses.restored(found.counts, student.device)
    if tally is not None:
        tally = Tally.restored(found.counts, student.device)
    return found.num_steps, losses, tally


def _batches(
    student: Student,
    learned: TrainingSet,
    plan: EpochPlan,
    steps: range,
    key: tuple[int | str, ...],
    tally: Tally | None,
    pixels: PixelSource,
) -> Iterator[Batch]:
    """The micro-batches that this rank takes of some steps: augmented, mixed, taught."""
    batches = load_batches(student, learned, plan, steps, ("augment", *key), pixels)
    if student.config.train.mixup or student.config.train.cutmix:
        batches = mix_batches(student, batches, plan.num_micro, steps, ("mix", *key))
    return batches if tally is None else teach_batches(student, batches, plan, tally)


@dataclass(frozen=True)
class Losses:
    """Losses of steps, summed on the device: reading one would wait for all work before it.

    total: float64 sum over the images, where they were finite. num: images that it is of.
    """

    total: Tensor
    num: Tensor
    num_skipped: int = 0
    """Steps that were left out: by the scaler of fp16, or by `train.on_nan: skip_step`."""

    @classmethod
    def none(cls, device: torch.device) -> "Losses":
        """Of no step. In float64: a float32 sum over an epoch would depend on its length."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(zero, zero)

    @classmethod
    def restored(cls, counts: Mapping[str, Tensor], device: torch.device) -> "Losses":
        """What `counts` gave."""
        total, num = (counts[name].to(device) for name in ("loss", "num_images"))
        return cls(total, num, int(counts["num_skipped"]))

    def counts(self) -> dict[str, Tensor]:
        """As scalars by name, for a commit within an epoch."""
        skipped = torch.tensor(self.num_skipped)
        return {"loss": self.total, "num_images": self.num, "num_skipped": skipped}

    def __add__(self, other: "Losses") -> "Losses":
        skipped = self.num_skipped + other.num_skipped
        return Losses(self.total + other.total, self.num + other.num, skipped)

    def mean_over(self, group: RankGroup) -> float:
        """Collective over a role group: the mean of all its ranks' images; NaN of none."""
        total, num = sum_over(torch.stack([self.total, self.num]).cpu(), group).tolist()
        return total / num if num else math.nan


def train_step(
    student: Student,
    batches: Iterator[Batch],
    num_micro: int,
    step_size: int,
    key: tuple[int | str, ...],
) -> Losses:
    """One optimizer update from this rank's next micro-batches; returns their losses.

    step_size: images of the step over all ranks. Each loss is divided by it, and gradients are
    summed over micro-batches and ranks: every image weighs the same, also where parts are uneven.
    Of a step that is left out (`train.on_nan`) nothing stays, and no loss is told.
    """
    train, exact, losses = student.config.train, student.exact, Losses.none(student.device)
    before = BeforeStep.of(student) if skips(student) else None
    if exact is not None:
        exact.begin()
    # Not Accelerate's accumulate(): its one counter of steps for all models would leave A untrained
    # in a process that holds both.
    parts = [(shard, micro) for shard in student.shards for micro in range(num_micro)]
    for shard, micro in parts:
        batch = next(batches)
        is_last = (shard, micro) == parts[-1]
        if exact is not None:
            exact.enter_shard()
        # With the shard, else all shards of a step would drop the same units. The price: with
        # dropout, another number of shards is another training.
        with _reduce_if(is_last, student), seeded(*key, shard, micro, device=student.device):
            loss = loss_of(student, batch)
            share = loss / step_size
            share = share if before is None else spread_to_gradient(share)
            student.scaler.scale(share).backward()
        if exact is not None:
            exact.leave_shard()
        value = loss.detach() if exact is None else round_loss(loss.detach())
        # Summed by image and divided at the end of the epoch: parts of a step differ in size.
        losses += count_loss(value, batch.num_images, tolerant=student.scaler.is_enabled())
    if exact is not None:
        exact.finish()
    if before is not None and not has_finite_gradient(student.model):
        before.put_back(student)
        return replace(Losses.none(student.device), num_skipped=1)
    if train.clip_grad_norm is not None:
        # Accelerate's own clipping would unscale the optimizers of both models.
        student.scaler.unscale_(student.optimizer)
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), train.clip_grad_norm)
    num_skipped = _take_step(student)
    if student.ema is not None and not num_skipped:
        student.ema.update(student.model)
    return replace(losses, num_skipped=num_skipped)


def loss_of(student: Student, batch: Batch) -> Tensor:
    """The forward pass and the loss of a batch, as a sum over its images."""
    if batch.lesson is not None:
        return taught_loss(student, batch)
    train, logits = student.config.train, [student.trained(view) for view in batch.views]
    return batch_loss(train.loss, logits, batch, label_smoothing=train.label_smoothing)


def _take_step(student: Student) -> int:
    """Update the weights; returns 1 where the scaler of fp16 skips the step, else 0."""
    scaler = student.scaler
    scale = scaler.get_scale()  # without fp16 a constant, so nothing waits for the device
    scaler.step(student.optimizer)
    scaler.update()
    student.optimizer.zero_grad(set_to_none=True)
    return int(scaler.get_scale() < scale)


def count_loss(loss: Tensor, num_images: int, *, tolerant: bool) -> Losses:
    """A micro-batch's loss. tolerant: whether one that is not finite is left out of the mean.

    With fp16 the scaler skips such a step and lowers its scale, so the training is well.
    """
    total = loss.double()
    num = torch.full_like(total, num_images)
    if tolerant:
        is_finite = total.isfinite()
        total, num = torch.where(is_finite, total, 0.0), torch.where(is_finite, num, 0.0)
    return Losses(total, num)


def _reduce_if(is_last: bool, student: Student) -> contextlib.AbstractContextManager[None]:
    """DDP reduces gradients after the last micro-batch alone."""
    if is_last or not isinstance(student.trained, DistributedDataParallel):
        return contextlib.nullcontext()
    no_sync: contextlib.AbstractContextManager[None] = student.trained.no_sync()
    return no_sync


def check_parts(
    num_labeled: int, num_pool: int, role: Role, num_role_ranks: int, train: TrainConfig
) -> None:
    """Raise UserError where a rank could meet a batch of one image or none.

    In an epoch over the labeled images, or with an R of any size up to that of U: one image more
    than a multiple of the batch size makes one step more, and all steps smaller.
    """
    num_shards = train.exact_elastic or num_role_ranks
    if num_role_ranks > num_shards:
        raise UserError(
            "train.exact_elastic",
            num_shards,
            f"is less than the {num_role_ranks} ranks of role {role.name}",
            f"give {num_role_ranks} or more, and the same in every world that is to agree",
        )
    smallest = (
        smallest_step_up_to(num_labeled, num_pool, train.batch_size, train.least_labeled_fraction)
        // num_shards
        // train.accumulation_steps
    )
    if smallest < 2:
        with_r = f", with R up to {num_labeled + num_pool}" if num_pool else ""
        raise UserError(
            "train.batch_size",
            train.batch_size,
            f"can leave {smallest} image(s) per rank and micro-batch: an epoch of {role.name} has "
            f"{num_labeled} images{with_r}, role {role.name} {num_role_ranks} rank(s), "
            + (f"train.exact_elastic is {num_shards}, " if train.exact_elastic else "")
            + f"train.accumulation_steps is {train.accumulation_steps}, and batch normalization "
            "needs 2",
            "use fewer ranks or accumulation steps, larger batches, or label more images"
            + (", or a lower train.least_labeled_fraction" if train.least_labeled_fraction else ""),
        )
