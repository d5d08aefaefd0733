"""A few steps and passes of a model, timed on this machine."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from cotrain_dist.config import CheckpointConfig
from cotrain_dist.method.steps import EpochPlan
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import pass_over
from cotrain_dist.training.pool import packed_votes
from cotrain_dist.training.steps import train_steps
from cotrain_dist.training.student import Student
from cotrain_dist.types import Position

NUM_TIMED = 3


def take_steps(
    student: Student, num_images: int, num_steps: int, images: Images, ctx: RunContext
) -> float:
    """Some steps over the first labeled images, each with all of them; returns their seconds."""
    labeled = images.table.labeled(student.role, "own")
    never = CheckpointConfig(every_minutes=None)
    ctx = replace(ctx, config=replace(ctx.config, checkpoint=never))
    rows = torch.arange(min(num_images, len(labeled)))
    plan = EpochPlan((rows,) * num_steps, num_shards=1, num_micro=1)
    return _seconds(
        lambda: train_steps(student, labeled, plan, "plan", Position(), images.pixels, ctx),
        student.device,
    )


def seconds_per_trained_image(
    student: Student, num_images: int, images: Images, ctx: RunContext
) -> float:
    """Of training in steps of so many, decoding included; the first step warms up."""
    size = min(num_images, len(images.table.labeled(student.role, "own")))
    take_steps(student, size, 1, images, ctx)
    return take_steps(student, size, NUM_TIMED, images, ctx) / (size * NUM_TIMED)


def seconds_per_labeled_image(
    student: Student, num_images: int, images: Images, ctx: RunContext
) -> float:
    """Of a pass without gradients by so many, decoding included; the first one warms up."""
    labeled = images.table.labeled(student.role, "own").sample_ids
    chunk = labeled[: min(num_images, len(labeled))]
    seconds = []
    for _ in range(NUM_TIMED + 1):
        seconds.append(
            _seconds(
                lambda: pass_over(student, chunk, packed_votes, "label", images, ctx),
                student.device,
            )
        )
    return median(seconds[1:]) / len(chunk)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # its work is only queued until then
    return time.perf_counter() - started
