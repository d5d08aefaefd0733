"""Passes without gradients: what a model says about images, and what is measured on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.exchange import Meeting, meetings, range_of
from cotrain_dist.method.metrics import Accuracy, AccuracyCounts, count_accuracy, no_accuracy
from cotrain_dist.method.placement import chunks_of_rank
from cotrain_dist.method.scores import to_probs
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import (
    all_gather_json,
    all_gather_rows,
    exchange_rows,
    sum_over,
)
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import ROLES, Role

Reduce = Callable[[Tensor], Tensor]
"""Logits of a chunk, [n, C] float32 on the model's device -> what is kept of them, [n, ...]."""

BLOCK_VALUES = 1 << 21
"""Probabilities that a rank holds at a time while it measures: 8 MiB of them."""


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
    model = student.predictor.eval()
    # The width and dtype, also of a rank without a chunk.
    nothing = reduce(torch.empty(0, len(images.table.class_names)))
    num_images, num_done = sum(len(batch) for batch in batches), 0
    # One piece for all, made before: many small ones between the large ones of each chunk would
    # leave holes in the memory that nothing fits into.
    kept = nothing.new_empty(num_images, *nothing.shape[1:])
    with ctx.reporter.track(f"{what} {student.role.name}", num_images) as advance:
        for inputs in student.inputs(batches, images.pixels):
            kept[num_done : num_done + len(inputs)] = reduce(model(inputs).float())
            num_done += len(inputs)
            advance(len(inputs))
    return kept


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


@dataclass(frozen=True)
class Met:
    """What both models say of the images from place `start` on: [n, ...] each."""

    start: int
    a: Tensor
    b: Tensor


def bring_together(
    shards: Mapping[Role, Tensor], num_images: int, batch_size: int, rt: Runtime
) -> list[Met]:
    """Collective over all ranks: the rows of both models on this rank's part of the images.

    shards: the rows of the roles that this rank holds, [n, ...], as `pass_over` gives them. Every
    image is in the part of one rank (`method.exchange.meetings`).
    """
    me, placement = rt.global_rank, rt.placement
    starts = {role: range_of(role, me, num_images, batch_size, placement).start for role in shards}

    def own(role: Role, meeting: Meeting) -> Tensor:
        return shards[role][meeting.start - starts[role] : meeting.stop - starts[role]]

    nothing = next(iter(shards.values()))[:0]
    outgoing, num_incoming, mine = [nothing] * rt.num_ranks, [0] * rt.num_ranks, []
    for meeting in meetings(num_images, batch_size, placement):
        # Parts are contiguous, so two ranks have one meeting to which the first one sends.
        if meeting.sender == me:
            outgoing[meeting.receiver] = own(meeting.role.peer, meeting)
        if meeting.receiver == me:
            num_incoming[meeting.sender] = meeting.stop - meeting.start
            mine.append(meeting)
    received = exchange_rows(outgoing, num_incoming, rt.control)
    met = []
    for meeting in mine:
        rows = {meeting.role: own(meeting.role, meeting)}
        rows[meeting.role.peer] = received[meeting.sender]
        met.append(Met(meeting.start, rows[Role.A], rows[Role.B]))
    return met


def measure_split(
    students: Sequence[Classifier], split: Split, images: Images, ctx: RunContext
) -> dict[str, Accuracy]:
    """Collective over all ranks: A, B and the mean of their probabilities on a labeled split.

    Each image counts once, in every world.
    """
    counts = count_split(students, images.table.sample_ids(split), images, ctx)
    return {name: own.accuracy() for name, own in counts.items()}


def count_split(
    students: Sequence[Classifier], sample_ids: Tensor, images: Images, ctx: RunContext
) -> dict[str, AccuracyCounts]:
    """Collective over all ranks: what is right of A, B and ensemble, counted block by block.

    No rank holds the probabilities of more than a block: its part of one for the roles it holds,
    and the peer's on its part of the work.
    """
    rt, batch_size = ctx.runtime, ctx.config.pool.batch_size
    num_classes = len(images.table.class_names)
    counts = {name: no_accuracy(num_classes) for name in ("a", "b", "ensemble")}
    group_sizes = [len(rt.placement.ranks_of(role)) for role in ROLES]
    for block in blocks_of(sample_ids, num_classes, batch_size, group_sizes):
        with rt.clock.measure("evaluate"):
            shards = {
                student.role: pass_over(student, block, to_probs, "measure", images, ctx)
                for student in students
            }
        # The slower role is waited for here, where it counts as idle.
        rt.wait_for_all()
        with rt.clock.measure("evaluate"):
            targets = images.table.class_ids[block]
            for met in bring_together(shards, len(block), batch_size, rt):
                own = targets[met.start : met.start + len(met.a)]
                probs = {"a": met.a, "b": met.b, "ensemble": (met.a + met.b) / 2}
                counts = {name: counts[name] + count_accuracy(probs[name], own) for name in counts}
    summed = sum_over(torch.stack([own.values for own in counts.values()]), rt.control)
    return {name: AccuracyCounts(own) for name, own in zip(counts, summed, strict=True)}


def blocks_of(
    sample_ids: Tensor, num_classes: int, batch_size: int, group_sizes: Sequence[int]
) -> Sequence[Tensor]:
    """The images in blocks, each of whole chunks: the forward passes are those without blocks.

    group_sizes: of the groups of ranks that share a block. None of its ranks holds more than
    BLOCK_VALUES probabilities of it, unless a chunk for each rank is more.
    """
    chunks_per_rank = BLOCK_VALUES // (batch_size * num_classes)
    num_chunks = max(max(group_sizes), min(group_sizes) * chunks_per_rank)
    blocks: Sequence[Tensor] = sample_ids.split(num_chunks * batch_size)
    return blocks


def measure_all(
    students: Sequence[Classifier], images: Images, ctx: RunContext
) -> dict[Split, dict[str, Accuracy]]:
    """Collective over all ranks: both models and their mean on T and V, where there are such.

    Without V also each model on its own labels: something has to tell of exploded weights.
    """
    # T steers no step and no R. Without V it chooses models/best, and a note there says so.
    splits = [split for split in (Split.T, Split.V) if len(images.table.sample_ids(split))]
    measured = {split: measure_split(students, split, images, ctx) for split in splits}
    return measured if Split.V in measured else measured | measure_own(students, images, ctx)


MAX_WATCHED = 256
"""Labeled images on which weights are watched: exploded ones show on far fewer."""


def watched_ids(role: Role, table: SplitTable) -> Tensor:
    """sample_ids of the images that tell whether a role's weights are well: V, or some of its L.

    Images of L are learned, so they say how well a model fits, and nothing of how good it is.
    """
    ids = table.sample_ids(Split.V)
    if len(ids):
        return ids
    own = table.labeled(role, "own").sample_ids
    # Where both learn all labels, one of the two splits may be empty.
    own = own if len(own) else table.labeled(role, "shared").sample_ids
    return own[:: max(1, -(-len(own) // MAX_WATCHED))]


def measure_own(
    students: Sequence[Classifier], images: Images, ctx: RunContext
) -> dict[Split, dict[str, Accuracy]]:
    """Collective over all ranks: each model on its own labels, thinned out, by L_A and L_B."""
    found = {}
    for student in students:
        ids = watched_ids(student.role, images.table)
        found[student.role.value] = asdict(measure_role(student, ids, images, ctx))
    ctx.runtime.wait_for_all()
    own: dict[str, dict[str, float]] = {}
    for part in all_gather_json(found, ctx.runtime.control):
        own |= part
    return {
        split: {role.value: Accuracy(**own[role.value])}
        for role, split in zip(ROLES, (Split.L_A, Split.L_B), strict=True)
    }


def measure_role(
    student: Classifier, sample_ids: Tensor, images: Images, ctx: RunContext
) -> Accuracy:
    """Collective over one role group: its model on labeled images, without augmentation."""
    group, batch_size = student.group, ctx.config.pool.batch_size
    num_classes = len(images.table.class_names)
    counts = no_accuracy(num_classes)
    with ctx.runtime.clock.measure("evaluate"):
        for block in blocks_of(sample_ids, num_classes, batch_size, [group.size]):
            probs = pass_over(student, block, to_probs, "measure", images, ctx)
            own = range_of(
                student.role,
                ctx.runtime.global_rank,
                len(block),
                batch_size,
                ctx.runtime.placement,
            )
            targets = images.table.class_ids[block[own.start : own.stop]]
            counts += count_accuracy(probs, targets)
        # Over the role group: in Step 1 the other role may be anywhere.
        return AccuracyCounts(sum_over(counts.values, group)).accuracy()
