"""One training epoch: the same steps in every world."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cotrain_dist.config import Config
from cotrain_dist.data.stream import stream_batches
from cotrain_dist.errors import UserError
from cotrain_dist.keys import seeded
from cotrain_dist.method.steps import (
    order_samples,
    smallest_part,
    split_into_steps,
    split_step,
)
from cotrain_dist.runtime.collectives import sum_over
from cotrain_dist.training.experiment import Experiment, Samples
from cotrain_dist.training.student import Student, average_buffers
from cotrain_dist.types import Role


@dataclass(frozen=True)
class EpochFit:
    """What training a model for an epoch came to."""

    loss: float
    """Mean over the epoch's images, as trained (with label smoothing); NaN where the weights have
    become so, which the losses before the last update do not show."""
    learning_rate: float
    """Of the last step."""
    num_steps: int
    num_samples: int


def train_epoch(
    student: Student, samples: Samples, phase: str, epoch: int, exp: Experiment
) -> EpochFit:
    """Train one epoch (counted from 1) on the samples. Collective over the role group.

    Order, augmentation and dropout are keyed by seed, role, phase and epoch: what the other role
    does, or did, changes no bit.
    """
    config, group = student.config, student.group
    key = (config.seed, student.role.value, phase, epoch)
    order = order_samples(len(samples), "order", *key)
    steps = split_into_steps(order, config.train.batch_size)
    mine = [split_step(s, group.size, config.train.accumulation_steps)[group.index] for s in steps]
    pixels = stream_batches(
        exp.read,
        student.train_transform,
        [samples.sample_ids[positions] for step in mine for positions in step],
        key=("augment", *key),
        num_workers=config.data.num_workers,
        pin_memory=exp.rt.device.type == "cuda",
    )
    student.trained.train()
    total_loss, rate = torch.zeros((), dtype=torch.float64), 0.0
    what = f"{phase} {epoch}: train {student.role.name}"
    with exp.rt.clock.measure("train"), exp.reporter.track(what, len(samples)) as advance:
        for index, (step, micro_batches) in enumerate(zip(steps, mine, strict=True)):
            rate = student.schedule.set_rate(epoch - 1 + index / len(steps))
            targets = [samples.targets[positions] for positions in micro_batches]
            step_key = ("dropout", *key, index, group.index)
            loss = train_step(student, pixels, targets, len(step), step_key, exp)
            total_loss += loss
            advance(len(step))
        average_buffers(student)
        mean_loss = float(sum_over(total_loss, group)) / len(samples)
    if not all(bool(parameter.isfinite().all()) for parameter in student.model.parameters()):
        mean_loss = math.nan
    return EpochFit(mean_loss, rate, len(steps), len(samples))


def train_step(
    student: Student,
    pixels: Iterator[Tensor],
    targets: list[Tensor],
    step_size: int,
    key: tuple[int | str, ...],
    exp: Experiment,
) -> float:
    """One optimizer update from this rank's micro-batches; returns the sum of their losses.

    step_size: images of the step over all ranks. Each loss is divided by it, and gradients are
    summed over micro-batches and ranks: every image weighs the same, also where parts are uneven.
    """
    device, config = exp.rt.device, student.config.train
    loss_sum = 0.0
    for micro, micro_targets in enumerate(targets):
        images = next(pixels).to(device, memory_format=student.memory_format, non_blocking=True)
        labels = micro_targets.to(device, non_blocking=True)
        is_last = micro == len(targets) - 1
        with _reduce_if(is_last, student), seeded(*key, micro, device=device):
            loss = F.cross_entropy(
                student.trained(images),
                labels,
                label_smoothing=config.label_smoothing,
                reduction="sum",
            )
            student.scaler.scale(loss / step_size).backward()
        loss_sum += loss.item()
    if config.clip_grad_norm is not None:
        student.scaler.unscale_(student.optimizer)
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), config.clip_grad_norm)
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


def check_parts(num_labeled: int, role: Role, num_role_ranks: int, config: Config) -> None:
    """Raise UserError where a rank would meet a batch of one image or none.

    The labeled group decides: R only adds to it.
    """
    train = config.train
    smallest = smallest_part(
        num_labeled, train.batch_size, num_role_ranks, train.accumulation_steps
    )
    if smallest < 2:
        raise UserError(
            "train.batch_size",
            train.batch_size,
            f"leaves {smallest} image(s) a rank and micro-batch: L_{role.name} has {num_labeled} "
            f"images, role {role.name} {num_role_ranks} rank(s), train.accumulation_steps is "
            f"{train.accumulation_steps}, and batch normalization needs 2",
            "use fewer ranks or accumulation steps, larger batches, or label more images",
        )
