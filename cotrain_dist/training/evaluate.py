"""Passes without gradients: logits of a group's images, and what is measured on them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cotrain_dist.data.stream import stream_batches
from cotrain_dist.method.metrics import Accuracy, measure_accuracy
from cotrain_dist.method.placement import chunks_of_rank
from cotrain_dist.method.scores import to_probs
from cotrain_dist.method.splits import Group
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import all_gather_rows
from cotrain_dist.training.experiment import Experiment
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import ROLES, Role


@torch.no_grad()
def predict_shard(student: Classifier, sample_ids: Tensor, what: str, exp: Experiment) -> Tensor:
    """Logits of this rank's share of the images, [n, C] float32 on the CPU. No communication.

    The share is whole chunks of `pool.chunk_size`, each one forward pass: so the logits have the
    same bits in every world. The bare model runs: DDP would broadcast buffers here.
    """
    chunks = chunks_of_rank(
        len(sample_ids), exp.config.pool.chunk_size, student.group.index, student.group.size
    )
    batches = [sample_ids[start:stop] for start, stop in chunks]
    num_images = sum(len(batch) for batch in batches)
    device = exp.rt.device
    pixels = stream_batches(
        exp.read,
        student.eval_transform,
        batches,
        num_workers=exp.config.data.num_workers,
        pin_memory=device.type == "cuda",
    )
    student.model.eval()
    logits = [torch.empty(0, len(exp.table.class_names))]
    with exp.reporter.track(f"{what} {student.role.name}", num_images) as advance:
        for images in pixels:
            images = images.to(device, memory_format=student.memory_format, non_blocking=True)
            logits.append(student.model(images).float().cpu())
            advance(len(images))
    return torch.cat(logits)


def gather_by_role(shards: dict[Role, Tensor], template: Tensor, rt: Runtime) -> dict[Role, Tensor]:
    """Collective over all ranks: each role's rows in the order of its chunks, on every rank.

    shards: this rank's rows for the roles it holds; template: [0, ...] of their shape and dtype.
    """
    gathered = {}
    for role in ROLES:
        parts = all_gather_rows(shards.get(role, template), rt.control)
        gathered[role] = torch.cat([parts[rank] for rank in rt.placement.ranks_of(role)])
    return gathered


def gather_probs(
    students: Sequence[Classifier],
    sample_ids: Tensor,
    exp: Experiment,
    *,
    keep_invalid: bool = False,
) -> dict[str, Tensor]:
    """Collective over all ranks: class probabilities of the images, [N, C] float32 on every rank.

    Keys: a, b, and ensemble, their mean. Each image passes once through each model. keep_invalid:
    rows whose logits are not finite stay NaN instead of becoming uniform.
    """
    with exp.rt.clock.measure("evaluate"):
        shards = {}
        for student in students:
            logits = predict_shard(student, sample_ids, "measure", exp)
            shards[student.role] = logits.softmax(dim=1) if keep_invalid else to_probs(logits)
    exp.rt.wait_for_all()
    with exp.rt.clock.measure("evaluate"):
        probs = gather_by_role(shards, torch.empty(0, len(exp.table.class_names)), exp.rt)
    a, b = probs[Role.A], probs[Role.B]
    return {"a": a, "b": b, "ensemble": (a + b) / 2}


def measure_group(
    students: Sequence[Classifier], group: Group, exp: Experiment
) -> dict[str, Accuracy]:
    """Collective over all ranks: A, B and the mean of their probabilities on a labeled group.

    Each image counts once, in every world.
    """
    sample_ids = exp.table.sample_ids(group)
    probs = gather_probs(students, sample_ids, exp)
    targets = exp.table.class_ids[sample_ids]
    return {name: measure_accuracy(values, targets) for name, values in probs.items()}


def measure_role(student: Classifier, sample_ids: Tensor, exp: Experiment) -> Accuracy:
    """Collective over one role group: its model on labeled images, without augmentation."""
    with exp.rt.clock.measure("evaluate"):
        shard = to_probs(predict_shard(student, sample_ids, "measure", exp))
        probs = torch.cat(all_gather_rows(shard, student.group))
        return measure_accuracy(probs, exp.table.class_ids[sample_ids])
