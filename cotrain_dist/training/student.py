"""A student: one model with its optimizer and schedule on this rank."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cotrain_dist.config import CotrainConfig, PretrainConfig, TrainConfig
from cotrain_dist.data.stream import Transform, train_transform
from cotrain_dist.models import (
    Preprocessing,
    Schedule,
    build_optimizer,
    preprocessing_of,
)
from cotrain_dist.runtime.collectives import RankGroup, sum_over
from cotrain_dist.training.experiment import Experiment
from cotrain_dist.types import Role


@dataclass
class Student:
    """One of the two models, as this rank trains it."""

    role: Role
    model: nn.Module
    """The bare model: predicts, is measured and saved."""
    trained: nn.Module
    """The same weights behind DDP where the role has several ranks: takes training steps."""
    group: RankGroup
    preprocessing: Preprocessing
    eval_transform: Transform
    train_transform: Transform
    optimizer: torch.optim.Optimizer
    schedule: Schedule

    @property
    def is_lead(self) -> bool:
        """Whether this rank speaks for the role."""
        return self.group.index == 0


def build_student(role: Role, model: nn.Module, exp: Experiment) -> Student:
    """A model as the student of a role, ready for pre-training. Collective over the role group."""
    config, data = exp.config, exp.config.data
    preprocessing = preprocessing_of(model, data.image_size, data.center_crop_fraction)
    eval_transform = preprocessing.eval_transform()
    augment = train_transform(data, preprocessing.mean, preprocessing.std)
    model = model.to(memory_format=memory_format_of(config.train))
    model = exp.rt.prepare_model(model)
    optimizer = build_optimizer(model, config.train, config.pretrain.learning_rate)
    return Student(
        role=role,
        model=model,
        trained=_wrap(model, exp.rt.gradient_handles[role], exp.rt.device),
        group=exp.rt.role_groups[role],
        preprocessing=preprocessing,
        eval_transform=eval_transform,
        train_transform=augment if data.augments else eval_transform,
        optimizer=optimizer,
        schedule=Schedule(optimizer, config.train, config.pretrain),
    )


def memory_format_of(config: TrainConfig) -> torch.memory_format:
    """Layout of weights and images."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def start_phase(
    student: Student, config: TrainConfig, phase: PretrainConfig | CotrainConfig, *, fresh: bool
) -> None:
    """Begin a phase with its schedule and, if `fresh`, a new optimizer."""
    if fresh:
        student.optimizer = build_optimizer(student.model, config, phase.learning_rate)
    student.schedule = Schedule(student.optimizer, config, phase)


def _wrap(model: nn.Module, handle: dist.ProcessGroup | None, device: torch.device) -> nn.Module:
    """DDP over the role group alone."""
    if handle is None:
        return model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        process_group=handle,
        # Each rank keeps its own statistics within an epoch; see average_buffers.
        forward_sync_buffers=False,
        # DDP otherwise lays its buckets out anew after the first step, so that a resumed run with
        # three ranks or more would sum its first gradients in another order.
        find_unused_parameters=True,
    )
    wrapped.register_comm_hook(handle, reduce_gradients)
    return wrapped


def reduce_gradients(
    handle: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Collective over a role group: the sum of a bucket's gradients.

    The one place that reduces gradients. A sum, since each rank has divided its loss by the number
    of images of the whole step: so every image counts once, whatever the sizes of the parts.
    """
    work = dist.all_reduce(bucket.buffer(), group=handle, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


@torch.no_grad()
def average_buffers(student: Student) -> None:
    """Collective over the role group: set normalization statistics to their mean over its ranks.

    Called at epoch ends alone, so that predictions and commits are the same on every rank.
    """
    if student.group.size == 1:
        return
    buffers = [b for b in student.model.buffers() if b.is_floating_point() and b.numel()]
    if not buffers:
        return
    flat = torch.cat([buffer.detach().float().flatten().cpu() for buffer in buffers])
    mean = sum_over(flat, student.group) / student.group.size
    for buffer, values in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(values.view_as(buffer))
