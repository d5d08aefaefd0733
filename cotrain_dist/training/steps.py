"""Training steps: the same in every world."""

import contextlib
import math
from collections.abc import Iterable, Iterator

import torch
from torch.nn.parallel import DistributedDataParallel

from cotrain_dist.config import TrainConfig
from cotrain_dist.data.stream import PixelSource
from cotrain_dist.errors import UserError
from cotrain_dist.keys import seeded
from cotrain_dist.method.losses import batch_loss
from cotrain_dist.method.steps import EpochPlan, plan_epoch, smallest_part
from cotrain_dist.runtime.collectives import sum_over
from cotrain_dist.store.records import Fit
from cotrain_dist.training.context import RunContext
from cotrain_dist.training.heads import fit_student
from cotrain_dist.training.student import Student, average_buffers
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
        with ctx.runtime.clock.measure("train"):
            return fit_student(student.frozen, student.config, learned)
    # The number of steps follows from L and R alone, so the two roles may take different ones:
    # nothing within an epoch waits for the other role.
    plan = plan_epoch(
        len(learned),
        batch_size=student.config.train.batch_size,
        num_shards=student.group.size,
        num_micro=student.config.train.accumulation_steps,
        key=epoch_key(student, phase, start.epoch),
    )
    return train_steps(student, learned, plan, phase, start, pixels, ctx)


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
    """Take the steps of a plan from `start` on. Collective over the role group."""
    key = epoch_key(student, phase, start.epoch)
    steps = range(start.step, len(plan.steps))
    num_samples = sum(len(plan.steps[step]) for step in steps)
    batches = load_batches(student, learned, plan, steps, ("augment", *key), pixels)
    student.trained.train()
    # In float64: a float32 sum over an epoch would depend on its length.
    total_loss, rate = torch.zeros((), dtype=torch.float64), 0.0
    what = f"{phase} {start.epoch}: train {student.role.name}"
    with ctx.runtime.clock.measure("train"), ctx.reporter.track(what, num_samples) as advance:
        for step in steps:
            # From the position alone: whoever enters in the middle of an epoch trains at the same
            # rate.
            rate = student.schedule.set_rate(start.epoch - 1 + step / len(plan.steps))
            # With the rank, else all shards of a step would drop the same units. The price: with
            # dropout, another number of ranks is another training.
            step_key = ("dropout", *key, step, student.group.index)
            step_size = len(plan.steps[step])
            total_loss += train_step(student, batches, plan.num_micro, step_size, step_key)
            advance(step_size)
        average_buffers(student)
        mean_loss = float(sum_over(total_loss, student.group)) / num_samples
    # The losses were taken before the updates, the last of which may have been the bad one.
    if not all(bool(parameter.isfinite().all()) for parameter in student.model.parameters()):
        mean_loss = math.nan
    return Fit(loss=mean_loss, learning_rate=rate, num_steps=len(steps), num_samples=num_samples)


def load_batches(
    student: Student,
    learned: TrainingSet,
    plan: EpochPlan,
    steps: Iterable[int],
    key: tuple[int | str, ...],
    pixels: PixelSource,
) -> Iterator[Batch]:
    """The micro-batches of this rank in some steps, in order, on its device.

    Everything that a step learns from passes here: a second view of an image is a second stream of
    pixels under another key.
    """
    mine = [rows for step in steps for rows in plan.micro_batches(step, student.group.index)]
    weak = pixels.batches(
        student.train_transform, [learned.sample_ids[rows] for rows in mine], key=key
    )
    for rows, view in zip(mine, weak, strict=True):
        yield Batch(
            views=(student.to_device(view),),
            targets=learned.targets[rows].to(student.device, non_blocking=True),
            is_pseudo=learned.is_pseudo[rows].to(student.device, non_blocking=True),
            weights=(
                None
                if learned.weights is None
                else learned.weights[rows].to(student.device, non_blocking=True)
            ),
        )


def train_step(
    student: Student,
    batches: Iterator[Batch],
    num_micro: int,
    step_size: int,
    key: tuple[int | str, ...],
) -> float:
    """One optimizer update from this rank's next micro-batches; returns the sum of their losses.

    step_size: images of the step over all ranks. Each loss is divided by it, and gradients are
    summed over micro-batches and ranks: every image weighs the same, also where parts are uneven.
    """
    train = student.config.train
    loss_sum = 0.0
    # Not Accelerate's accumulate(): its one counter of steps for all models would leave A untrained
    # in a process that holds both.
    for micro in range(num_micro):
        batch = next(batches)
        is_last = micro == num_micro - 1
        with _reduce_if(is_last, student), seeded(*key, micro, device=student.device):
            logits = [student.trained(view) for view in batch.views]
            loss = batch_loss(train.loss, logits, batch, label_smoothing=train.label_smoothing)
            student.scaler.scale(loss / step_size).backward()
        # Summed by image and divided at the end of the epoch: parts of a step differ in size.
        loss_sum += loss.item()
    if train.clip_grad_norm is not None:
        # Accelerate's own clipping would unscale the optimizers of both models.
        student.scaler.unscale_(student.optimizer)
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), train.clip_grad_norm)
    student.scaler.step(student.optimizer)
    student.scaler.update()
    student.optimizer.zero_grad(set_to_none=True)
    return loss_sum


def _reduce_if(is_last: bool, student: Student) -> contextlib.AbstractContextManager[None]:
    """DDP reduces gradients after the last micro-batch alone."""
    if is_last or not isinstance(student.trained, DistributedDataParallel):
        return contextlib.nullcontext()
    no_sync: contextlib.AbstractContextManager[None] = student.trained.no_sync()
    return no_sync


def check_parts(num_labeled: int, role: Role, num_role_ranks: int, train: TrainConfig) -> None:
    """Raise UserError where a rank would meet a batch of one image or none.

    The labeled images decide: R only adds to them.
    """
    smallest = smallest_part(
        num_labeled, train.batch_size, num_role_ranks, train.accumulation_steps
    )
    if smallest < 2:
        raise UserError(
            "train.batch_size",
            train.batch_size,
            f"leaves {smallest} image(s) per rank and micro-batch: L_{role.name} has {num_labeled} "
            f"images, role {role.name} {num_role_ranks} rank(s), train.accumulation_steps is "
            f"{train.accumulation_steps}, and batch normalization needs 2",
            "use fewer ranks or accumulation steps, larger batches, or label more images",
        )
