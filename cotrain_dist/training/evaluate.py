"""Passes without gradients: what a model says about images, and what is measured on it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cotrain_dist.method.metrics import Accuracy, measure_accuracy
from cotrain_dist.method.placement import chunks_of_rank
from cotrain_dist.method.scores import to_probs
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import all_gather_rows
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import ROLES, Role

Reduce = Callable[[Tensor], Tensor]
"""Logits of a chunk, [n, C] float32 on the model's device -> what is kept of them, [n, ...]."""


@torch.no_grad()
def pass_over(
    student: Classifier,
    sample_ids: Tensor,
    reduce: Reduce,
    what: str,
    images: Images,
    ctx: RunContext,
) -> Tensor:
    """What `reduce` keeps of this rank's part of the images, [n, ...] on the CPU. No communication.

    The part is whole chunks of `pool.batch_size`, each one forward pass: so the logits have the
    same bits in every world. Reduced chunk by chunk: all logits of a large U would not fit. The
    bare model runs: DDP would broadcast buffers here.
    """
    chunks = chunks_of_rank(
        len(sample_ids), ctx.config.pool.batch_size, student.group.index, student.group.size
    )
    batches = [sample_ids[start:stop] for start, stop in chunks]
    student.model.eval()
    # The shape and dtype of a rank without a chunk.
    kept = [reduce(torch.empty(0, len(images.table.class_names)))]
    num_images = sum(len(batch) for batch in batches)
    with ctx.reporter.track(f"{what} {student.role.name}", num_images) as advance:
        for inputs in student.inputs(batches, images.pixels):
            kept.append(reduce(student.model(inputs).float()).cpu())
            advance(len(inputs))
    return torch.cat(kept)


def gather_by_role(shards: dict[Role, Tensor], template: Tensor, rt: Runtime) -> dict[Role, Tensor]:
    """Collective over all ranks: each role's rows in the order of its chunks, on every rank.

    shards: this rank's rows for the roles it holds; template: [0, ...] of their shape and dtype.
    """
    gathered = {}
    for role in ROLES:
        # Who does not hold the role brings no rows, but the call is for all ranks.
        parts = all_gather_rows(shards.get(role, template), rt.control)
        # Chunks are contiguous and ranks ascend, so this is the order of the images.
        gathered[role] = torch.cat([parts[rank] for rank in rt.placement.ranks_of(role)])
    return gathered


def gather_probs(
    students: Sequence[Classifier],
    sample_ids: Tensor,
    images: Images,
    ctx: RunContext,
    *,
    reduce: Reduce = to_probs,
) -> dict[str, Tensor]:
    """Collective over all ranks: class probabilities of the images, [N, C] float32 on every rank.

    Keys: a, b, and ensemble, their mean. Each image passes once through each model.
    """
    with ctx.runtime.clock.measure("evaluate"):
        shards = {
            student.role: pass_over(student, sample_ids, reduce, "measure", images, ctx)
            for student in students
        }
    # The slower role is waited for here, where it counts as idle.
    ctx.runtime.wait_for_all()
    with ctx.runtime.clock.measure("evaluate"):
        template = torch.empty(0, len(images.table.class_names))
        probs = gather_by_role(shards, template, ctx.runtime)
    a, b = probs[Role.A], probs[Role.B]
    return {"a": a, "b": b, "ensemble": (a + b) / 2}


def measure_split(
    students: Sequence[Classifier], split: Split, images: Images, ctx: RunContext
) -> dict[str, Accuracy]:
    """Collective over all ranks: A, B and the mean of their probabilities on a labeled split.

    Each image counts once, in every world.
    """
    sample_ids = images.table.sample_ids(split)
    probs = gather_probs(students, sample_ids, images, ctx)
    targets = images.table.class_ids[sample_ids]
    return {name: measure_accuracy(values, targets) for name, values in probs.items()}


def measure_all(
    students: Sequence[Classifier], images: Images, ctx: RunContext
) -> dict[Split, dict[str, Accuracy]]:
    """Collective over all ranks: both models and their mean on T and V, where there are such."""
    # T steers no step and no R. Without V it chooses models/best, and a note there says so.
    splits = [split for split in (Split.T, Split.V) if len(images.table.sample_ids(split))]
    return {split: measure_split(students, split, images, ctx) for split in splits}


def measure_role(
    student: Classifier, sample_ids: Tensor, images: Images, ctx: RunContext
) -> Accuracy:
    """Collective over one role group: its model on labeled images, without augmentation."""
    with ctx.runtime.clock.measure("evaluate"):
        shard = pass_over(student, sample_ids, to_probs, "measure", images, ctx)
        # Over the role group: in Step 1 the other role may be anywhere.
        probs = torch.cat(all_gather_rows(shard, student.group))
        return measure_accuracy(probs, images.table.class_ids[sample_ids])
