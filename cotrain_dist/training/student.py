"""A student: one model with its optimizer and schedule on this rank."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cotrain_dist.config import RoleConfig
from cotrain_dist.data.stream import Transform, train_transform
from cotrain_dist.models import (
    Preprocessing,
    Schedule,
    build_optimizer,
    preprocessing_of,
)
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import RankGroup, sum_over
from cotrain_dist.types import Role


@dataclass
class Classifier:
    """One of the two models, as this rank labels and measures with it."""

    role: Role
    config: RoleConfig
    model: nn.Module
    """The bare model: predicts, is measured and saved."""
    group: RankGroup
    preprocessing: Preprocessing
    eval_transform: Transform
    device: torch.device

    @property
    def is_lead(self) -> bool:
        """Whether this rank speaks for the role."""
        return self.group.index == 0

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of weights and images."""
        return torch.channels_last if self.config.train.channels_last else torch.contiguous_format

    def to_device(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, S, S] where and in the layout in which the model takes them."""
        return pixels.to(self.device, memory_format=self.memory_format, non_blocking=True)


@dataclass
class Student(Classifier):
    """A classifier that this rank trains."""

    trained: nn.Module
    """The same weights behind DDP (and torch.compile): takes training steps."""
    train_transform: Transform
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    """One a student, since each model's losses have a scale of their own; idle without fp16."""


def build_classifier(role: Role, model: nn.Module, config: RoleConfig, rt: Runtime) -> Classifier:
    """A model on this rank's device, ready to predict."""
    preprocessing = preprocessing_of(model, config.image_size, config.center_crop_fraction)
    classifier = Classifier(
        role=role,
        config=config,
        model=model,
        group=rt.role_groups[role],
        preprocessing=preprocessing,
        eval_transform=preprocessing.eval_transform(),
        device=rt.device,
    )
    classifier.model = rt.prepare_model(model.to(memory_format=classifier.memory_format))
    return classifier


def build_student(role: Role, model: nn.Module, config: RoleConfig, rt: Runtime) -> Student:
    """A model as the student of a role, ready for pre-training. Collective over the role group."""
    base = build_classifier(role, model, config, rt)
    augment = train_transform(config, base.preprocessing.mean, base.preprocessing.std)
    optimizer = build_optimizer(base.model, config.train, config.pretrain.learning_rate)
    compiled = cast(nn.Module, torch.compile(base.model)) if config.compile else base.model
    return Student(
        **vars(base),
        trained=_wrap(compiled, rt.gradient_handles[role], rt.device),
        train_transform=augment if config.augments else base.eval_transform,
        optimizer=optimizer,
        schedule=Schedule(optimizer, config.train, config.pretrain),
        scaler=torch.amp.GradScaler(rt.device.type, enabled=rt.precision == "fp16"),
    )


def start_step_two(student: Student) -> None:
    """Begin Step 2 with its schedule and, unless told to keep it, a new optimizer."""
    config = student.config
    if config.cotrain.optimizer == "fresh":
        rate = config.cotrain.learning_rate
        student.optimizer = build_optimizer(student.model, config.train, rate)
    student.schedule = Schedule(student.optimizer, config.train, config.cotrain)


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
