"""The exchange of an epoch: both models vote on U, R_A and R_B are selected and handed over.

No rank sees all votes. Where a rank of A and one of B have passed over the same images, one of them
receives the other's votes on them (`method.exchange.meetings`), selects there, and counts. To all
go only what was selected, and sums of counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cotrain_dist.config import SelectionConfig
from cotrain_dist.method.scores import vote
from cotrain_dist.method.selection import (
    keep_surest,
    label_selected,
    select,
    select_from_all,
    surest_keys,
)
from cotrain_dist.method.splits import Split
from cotrain_dist.method.thresholds import (
    ClassCounts,
    adapt_cuts,
    class_limits,
    count_classes,
    fixed_cuts,
    no_class_counts,
    within_limits,
)
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import (
    RankGroup,
    all_gather_bytes,
    all_gather_rows,
    require_equal,
    sum_over,
)
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import Met, Reduce, bring_together, gather_by_role, pass_over
from cotrain_dist.training.student import Classifier
from cotrain_dist.training.transport import joined, pack_exchange, unpack_exchange
from cotrain_dist.types import ROLES, Exchange, Role, Votes

BLOCK_SIZE = 1 << 15
"""Votes that are worked on at a time: what is made of them on the way stays in the cache."""


Limits = tuple[Tensor, Tensor]
"""Up to where R_A and R_B keep images of each class (`method.thresholds.class_limits`)."""


@dataclass(frozen=True)
class PoolVotes:
    """Both models' votes on this rank's part of U; an image is in the part of one rank alone."""

    parts: tuple[Met, ...]
    """[n] int32 each, as votes travel."""
    cuts: Tensor
    """What they are compared with, equal on every rank: [rows, C] or [rows, 1] int16."""

    def blocks(self) -> Iterator[tuple[slice, Votes]]:
        """Where in U, ascending, and the votes on these images, [2, n]."""
        for part in self.parts:
            for start in range(0, len(part.a), BLOCK_SIZE):
                rows = slice(start, min(start + BLOCK_SIZE, len(part.a)))
                where = slice(part.start + rows.start, part.start + rows.stop)
                yield where, unpack_votes(torch.stack([part.a[rows], part.b[rows]]))


def vote_on_pool(students: Sequence[Classifier], images: Images, ctx: RunContext) -> PoolVotes:
    """Collective over all ranks: both models' votes on U, each rank its part.

    Each rank passes over its chunks of U; 4 bytes per image and model are kept, and travel.
    """
    pool_ids, num_classes = images.table.sample_ids(Split.U), len(images.table.class_names)
    with ctx.runtime.clock.measure("pseudo_label"):
        shards = {
            student.role: pass_over(
                student, pool_ids, at_temperature(student, packed_votes), "label U:", images, ctx
            )
            for student in students
        }
    ctx.runtime.wait_for_all()
    with ctx.runtime.clock.measure("exchange"):
        met = bring_together(shards, len(pool_ids), ctx.config.pool.batch_size, ctx.runtime)
        return with_cuts(met, ctx.config.selection, num_classes, ctx.runtime.control)


def with_cuts(
    met: Sequence[Met], selection: SelectionConfig, num_classes: int, control: RankGroup
) -> PoolVotes:
    """Collective over all ranks: the votes, with cuts that follow all of them where so set."""
    votes = PoolVotes(tuple(met), fixed_cuts(selection.cut))
    if selection.threshold_policy == "fixed":
        return votes
    counts = no_class_counts(len(ROLES), num_classes)
    for _, block in votes.blocks():
        counts += count_classes(block, num_classes, threshold=selection.cut)
    # Of whole numbers, so the sum is the same in every world.
    counts = ClassCounts(sum_over(counts.values, control))
    return replace(votes, cuts=adapt_cuts(counts, selection.threshold_policy, selection.cut))


def at_temperature(student: Classifier, reduce: Reduce) -> Reduce:
    """What `reduce` makes of a model's calibrated logits."""
    # Not divided by 1: the numbers would be the same, and the pass slower.
    if student.temperature == 1.0:
        return reduce
    return lambda logits: reduce(logits / student.temperature)


def packed_votes(logits: Tensor) -> Tensor:
    """The votes of a chunk as they travel: label and uncertainty in one int32. [n, C] -> [n]."""
    votes = vote(logits)
    # The same bits read as int16, so that ids above 32,767 come back whole.
    halves = torch.stack([votes.labels.view(torch.int16), votes.uncertainty], dim=1)
    return halves.view(torch.int32)[:, 0]


def unpack_votes(packed: Tensor) -> Votes:
    """Back from `packed_votes`. [..., n] int32 -> Votes of [..., n]."""
    halves = packed.contiguous().view(torch.int16).reshape(*packed.shape, 2)
    return Votes(halves[..., 0].contiguous().view(torch.uint16), halves[..., 1].contiguous())


def exchange_selected(votes: PoolVotes, pool_ids: Tensor, ctx: RunContext) -> Exchange:
    """Collective over all ranks: R_A and R_B, each image selected where its votes lie.

    pool_ids: [N] int64, the ids of U. Every rank then shows by digest that it holds the same.
    """
    selection, control = ctx.config.selection, ctx.runtime.control
    with ctx.runtime.clock.measure("exchange"):
        limits = find_limits(votes, selection, control)
        own = select_here(votes, pool_ids, selection, limits)
        return hand_over(own, pool_ids, control)


def find_limits(votes: PoolVotes, selection: SelectionConfig, control: RankGroup) -> Limits | None:
    """Collective over all ranks: up to where each class's surest images are kept; None: all are.

    Each rank sends its own surest images alone, 8 bytes each: no other can be among those of all.
    """
    num_kept = selection.top_k_per_class
    if num_kept is None:
        return None
    limits = []
    for own in _surest_here(votes, selection):
        mine = own[within_limits(own, class_limits(own, num_kept))]
        limits.append(class_limits(torch.cat(all_gather_rows(mine, control)), num_kept))
    return limits[0], limits[1]


def _surest_here(votes: PoolVotes, selection: SelectionConfig) -> list[Tensor]:
    """By which the images of this rank's part that are in R_A, and in R_B, rank; [K] int64 each."""
    found: list[tuple[Tensor, ...]] = [(torch.empty(0, dtype=torch.int64),) * len(ROLES)]
    for where, block in votes.blocks():
        selected = select(block, selection.rule, cuts=votes.cuts)
        found.append(surest_keys(selected, block, selection.rule, where.start))
    return [torch.cat(keys) for keys in zip(*found, strict=True)]


def select_here(
    votes: PoolVotes, pool_ids: Tensor, selection: SelectionConfig, limits: Limits | None = None
) -> Exchange:
    """The images of this rank's part that are in R_A or R_B. No communication."""
    found = []
    for where, block in votes.blocks():
        selected = select(block, selection.rule, cuts=votes.cuts)
        if limits is not None:
            selected = keep_surest(selected, block, selection.rule, where.start, limits)
        ids, rule = pool_ids[where], selection.rule
        found.append(label_selected(selected, block, ids, rule=rule, weights=selection.weights))
    return joined(found)


def hand_over(own: Exchange, pool_ids: Tensor, control: RankGroup) -> Exchange:
    """Collective over all ranks: what all have selected, in the order of U, checked by digest."""
    # Cheap: with the votes, 9 ms of an epoch of 45 s (EfficientNet-B0, Caltech-101, 64 pixels).
    parts = all_gather_bytes(pack_exchange(own, pool_ids), control)
    exchanged = joined([unpack_exchange(part, pool_ids) for part in parts])
    # From here on the roles part; if they held different R, nothing later would notice.
    require_equal(pack_exchange(exchanged, pool_ids), "the exchange", control)
    return exchanged


def exchange_plainly(
    shards: dict[Role, Tensor],
    pool_ids: Tensor,
    selection: SelectionConfig,
    num_classes: int,
    rt: Runtime,
) -> Exchange:
    """Collective over all ranks: the exchange without shortcuts, all votes on every rank.

    What `bring_together` and `exchange_selected` are held against; 8 bytes an image travel.
    """
    rows = gather_by_role(shards, torch.empty(0, dtype=torch.int32), rt)
    votes = unpack_votes(torch.stack([rows[Role.A], rows[Role.B]]))
    return select_from_all(votes, pool_ids, selection, num_classes)
