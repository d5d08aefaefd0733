"""A student: one model with its optimizer and schedule on this rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cotrain_dist.config import RoleConfig
from cotrain_dist.data.augment import (
    Drawn,
    augment,
    draw_chosen,
    draw_strong,
    draw_weak,
    normalize,
)
from cotrain_dist.data.stream import Pixels, PixelSource
from cotrain_dist.data.views import View, whole_view
from cotrain_dist.method.consistency import FreeState
from cotrain_dist.method.heads import Scaling
from cotrain_dist.method.steps import shards_of_rank
from cotrain_dist.models import (
    Preprocessing,
    Schedule,
    build_optimizer,
    num_classes_of,
    preprocessing_of,
)
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import RankGroup, max_over, sum_over
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training.ema import Ema
from cotrain_dist.training.exact import ExactSums
from cotrain_dist.training.norm import freeze_norms, synchronize_norms
from cotrain_dist.types import Role


@dataclass(frozen=True)
class Frozen:
    """A backbone that is not trained, as its last layer sees it."""

    head: nn.Linear
    features: FeatureStore
    """Of all images of the run."""
    scaling: Scaling | None = None
    """For fits; None where the head is only asked."""


@dataclass(frozen=True)
class Teacher:
    """A model that labels what a student learns, as this rank asks it."""

    model: nn.Module
    view: View
    """What it reads of images."""
    preprocessing: Preprocessing


@dataclass
class Classifier:
    """One of the two models, as this rank labels and measures with it."""

    role: Role
    config: RoleConfig
    model: nn.Module
    """The bare model; with `frozen` the last layer alone."""
    whole: nn.Module
    """The whole model, of which `model` is all or a part."""
    group: RankGroup
    preprocessing: Preprocessing
    eval_view: View
    device: torch.device
    frozen: Frozen | None
    """What the rest of the model gives, where only the last layer is trained."""
    temperature: float = field(default=1.0, kw_only=True)
    """What its logits on U are divided by."""

    @property
    def predictor(self) -> nn.Module:
        """What labels, and is measured."""
        return self.model

    @property
    def exported(self) -> nn.Module:
        """The whole model that is saved."""
        return self.whole

    def inputs(self, batches: Sequence[Tensor], pixels: PixelSource) -> Iterator[Tensor]:
        """What `predictor` takes of batches of sample_ids, without augmentation, on its device."""
        if self.frozen is not None:
            yield from (self.frozen.features.read(batch) for batch in batches)
            return
        for batch in pixels.batches(self.eval_view, batches):
            images = self.as_they_are(batch)
            if batch.unreadable.any():
                # NaN comes through to the logits; it touches no other image of a chunk.
                images[torch.from_numpy(batch.unreadable).to(self.device)] = torch.nan
            yield images

    @property
    def is_lead(self) -> bool:
        """Whether this rank speaks for the role."""
        return self.group.index == 0

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of weights and images."""
        return torch.channels_last if self.config.train.channels_last else torch.contiguous_format

    def as_they_are(self, pixels: Pixels) -> Tensor:
        """Images [n, 3, S, S] without augmentation, as the model takes them."""
        values = pixels.values.to(self.device, non_blocking=True)
        return self.in_layout(normalize(values, self.preprocessing.mean, self.preprocessing.std))

    def in_layout(self, images: Tensor) -> Tensor:
        """Images in the layout in which the model takes them."""
        return images.contiguous(memory_format=self.memory_format)


@dataclass
class Student(Classifier):
    """A classifier that this rank trains."""

    trained: nn.Module
    """The same weights behind DDP (and torch.compile): takes training steps."""
    train_view: View
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    """One a student, since each model's losses have a scale of their own; idle without fp16."""
    device_group: RankGroup
    """The ranks of `group` over the backend of their device: what they add up within a step."""
    ema: Ema | None
    """Where train.ema_decay is set: takes the place of the model outside of training."""
    exact: ExactSums | None = None
    """Where train.exact_elastic is set: adds up what the shards of a step give."""
    peer: Teacher | None = None
    """A copy of the other model, where it teaches; its weights come before each epoch."""
    teachers: tuple[Teacher, ...] = ()
    """In Step 2 with consistency."""
    free: FreeState | None = None
    """In Step 2 with consistency.policy free."""

    @property
    def predictor(self) -> nn.Module:
        """The EMA where there is one, else the model."""
        return self.model if self.ema is None else self.ema.module

    @property
    def exported(self) -> nn.Module:
        """The EMA where there is one, else the whole model."""
        return self.whole if self.ema is None else self.ema.module

    @property
    def num_shards(self) -> int:
        """Parts of each step: one for each rank of the role, or as many as the settings say."""
        return self.config.train.exact_elastic or self.group.size

    @property
    def shards(self) -> range:
        """Those of them that this rank takes."""
        return shards_of_rank(self.group.index, self.group.size, self.num_shards)

    @property
    def num_classes(self) -> int:
        """Classes of the data."""
        return num_classes_of(self.whole)

    def augmented(
        self,
        pixels: Pixels,
        sample_ids: Tensor,
        *key: int | str,
        is_strong: Tensor | None = None,
    ) -> Tensor:
        """Images [n, 3, S, S] as training sees them: one random view of each, by the key.

        is_strong: [n] bool, which views are strong; None takes the usual one for all.
        """
        aspects, least_area = pixels.aspects, self.config.crop_min_area
        if is_strong is not None:
            drawn = draw_chosen(is_strong, sample_ids, aspects, least_area, *key)
            return self._rendered(pixels, drawn, self.preprocessing)
        match self.config.augmentation:
            case "off":
                return self.as_they_are(pixels)
            case "crop_flip":
                draw = draw_weak
            case "strong":
                draw = draw_strong
        drawn = draw(sample_ids, aspects, least_area, *key)
        return self._rendered(pixels, drawn, self.preprocessing)

    def strong_view(self, pixels: Pixels, sample_ids: Tensor, *key: int | str) -> Tensor:
        """Images [n, 3, S, S] in a strong view, whatever the usual one is."""
        drawn = draw_strong(sample_ids, pixels.aspects, self.config.crop_min_area, *key)
        return self._rendered(pixels, drawn, self.preprocessing)

    def weak_view(
        self, teacher: Teacher, pixels: Pixels, sample_ids: Tensor, *key: int | str
    ) -> Tensor:
        """Images [n, 3, S, S] as a teacher sees them: one draw for all teachers, each in its size.

        pixels: in the teacher's view.
        """
        drawn = draw_weak(sample_ids, pixels.aspects, self.config.crop_min_area, *key)
        return self._rendered(pixels, drawn, teacher.preprocessing)

    def _rendered(self, pixels: Pixels, drawn: Drawn, form: Preprocessing) -> Tensor:
        values = pixels.values.to(self.device, non_blocking=True)
        return self.in_layout(augment(values, drawn, form.image_size, form.mean, form.std))


def build_classifier(role: Role, model: nn.Module, config: RoleConfig, rt: Runtime) -> Classifier:
    """A whole model on this rank's device, ready to predict from pixels."""
    preprocessing = preprocessing_of(model, config.image_size, config.center_crop_fraction)
    classifier = Classifier(
        role=role,
        config=config,
        model=model,
        whole=model,
        group=rt.role_groups[role],
        preprocessing=preprocessing,
        eval_view=preprocessing.view(),
        device=rt.device,
        frozen=None,
    )
    model = rt.prepare_model(model.to(memory_format=classifier.memory_format))
    classifier.model = classifier.whole = model
    return classifier


def build_student(role: Role, model: nn.Module, config: RoleConfig, rt: Runtime) -> Student:
    """A model as the student of a role, ready for pre-training. Collective over the role group."""
    base = build_classifier(role, model, config, rt)
    # Of the bare model, whose tensors DDP and a compiled model share.
    optimizer = build_optimizer(base.model, config.train, config.pretrain.learning_rate)
    if config.train.norm == "sync":
        synchronize_norms(base.model, rt.gradient_handles[role])
    elif config.train.norm == "frozen":
        freeze_norms(base.model)
    compiled = cast(nn.Module, torch.compile(base.model)) if config.compile else base.model
    handle, num_shards = rt.gradient_handles[role], config.train.exact_elastic
    device_group = replace(base.group, handle=handle)
    has_ema = config.train.ema_decay > 0.0 and config.model.train == "all"
    return Student(
        **vars(base),
        trained=compiled if num_shards else _wrap(compiled, handle, rt.device),
        train_view=(
            base.eval_view if config.augmentation == "off" else whole_view(config.image_size)
        ),
        optimizer=optimizer,
        schedule=Schedule(optimizer, config.train, config.pretrain),
        scaler=torch.amp.GradScaler(rt.device.type, enabled=rt.precision == "fp16"),
        device_group=device_group,
        ema=Ema(base.model, config.train.ema_decay) if has_ema else None,
        exact=ExactSums(base.model, num_shards, device_group) if num_shards else None,
    )


def with_head_alone(student: Student, frozen: Frozen) -> Student:
    """The student whose last layer alone is trained, by `training/heads.py`."""
    head = frozen.head
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)  # never used; commits hold its state
    return replace(
        student,
        model=head,
        trained=head,
        frozen=frozen,
        device=torch.device("cpu"),
        optimizer=optimizer,
        schedule=Schedule(optimizer, student.config.train, student.config.pretrain),
    )


def start_step_two(student: Student) -> None:
    """Begin Step 2 with its schedule and, unless told to keep it, a new optimizer."""
    config = student.config
    if student.frozen is not None:
        return
    if config.cotrain.optimizer == "fresh":
        rate = config.cotrain.learning_rate
        student.optimizer = build_optimizer(student.model, config.train, rate)
    # A kept optimizer too gets the rates of Step 2, from the start of its warm-up.
    student.schedule = Schedule(student.optimizer, config.train, config.cotrain)


def _wrap(model: nn.Module, handle: dist.ProcessGroup | None, device: torch.device) -> nn.Module:
    """DDP over the role group alone."""
    # A role of one rank sums nothing, and its model is spared the buckets.
    if handle is None:
        return model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        process_group=handle,
        # Each rank keeps its own statistics within an epoch; see average_buffers.
        # DDP's own way comes before each forward pass, so ranks would still differ after the last
        # step. torch 2.13 brought this name, and with it pyproject.toml's lower bound: the one
        # before, broadcast_buffers, warns at every start by now.
        forward_sync_buffers=False,
        # DDP otherwise lays its buckets out anew after the first step, so that a resumed run with
        # three ranks or more would sum its first gradients in another order.
        # The price is one walk over the graph a step.
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

    Those of the model and of its EMA. Called at epoch ends alone, so that predictions and commits
    are the same on every rank.
    """
    if student.group.size == 1 or student.exact is not None:  # then they are equal
        return
    models = (student.model,) if student.ema is None else (student.model, student.ema.module)
    # Counters of batches are whole numbers, and equal: each rank has met as many micro-batches.
    buffers = [
        b for model in models for b in model.buffers() if b.is_floating_point() and b.numel()
    ]
    if not buffers:
        return
    # One tensor, so one collective; on the CPU, since the group is one of gloo.
    flat = torch.cat([buffer.detach().float().flatten().cpu() for buffer in buffers])
    largest, least = max_over(torch.stack([flat, -flat]), student.group)
    mean = sum_over(flat.clone(), student.group) / student.group.size
    # Tables of constants, such as coordinates of windows, are equal on all ranks already; the mean
    # of three equal numbers may differ from them in its last bit.
    mean = torch.where(largest == -least, flat, mean)
    for buffer, values in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(values.view_as(buffer))
