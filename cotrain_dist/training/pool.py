"""The exchange of an epoch: both models vote on U, R_A and R_B are selected and handed over.

No rank sees all votes. Where a rank of A and one of B have passed over the same images, one of them
receives the other's votes on them (`method.exchange.meetings`), selects there, and counts. To all
go only what was selected, and sums of counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cotrain_dist.config import SelectionConfig
from cotrain_dist.method.scores import vote
from cotrain_dist.method.selection import label_selected, select
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import RankGroup, all_gather_bytes, require_equal
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import Met, bring_together, gather_by_role, pass_over
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import ROLES, Exchange, PseudoLabeled, Role, Votes

BLOCK_SIZE = 1 << 15
"""Votes that are worked on at a time: what is made of them on the way stays in the cache."""


@dataclass(frozen=True)
class PoolVotes:
    """Both models' votes on this rank's part of U; an image is in the part of one rank alone."""

    parts: tuple[Met, ...]
    """[n] int32 each, as votes travel."""

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
    pool_ids = images.table.sample_ids(Split.U)
    with ctx.runtime.clock.measure("pseudo_label"):
        shards = {
            student.role: pass_over(student, pool_ids, packed_votes, "label U:", images, ctx)
            for student in students
        }
    ctx.runtime.wait_for_all()
    with ctx.runtime.clock.measure("exchange"):
        met = bring_together(shards, len(pool_ids), ctx.config.pool.batch_size, ctx.runtime)
    return PoolVotes(tuple(met))


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
    with ctx.runtime.clock.measure("exchange"):
        own = select_here(votes, pool_ids, ctx.config.selection)
        return hand_over(own, ctx.runtime.control)


def select_here(votes: PoolVotes, pool_ids: Tensor, selection: SelectionConfig) -> Exchange:
    """The images of this rank's part that are in R_A or R_B. No communication."""
    found = [Exchange.empty()]
    for where, block in votes.blocks():
        selected = select(block, selection.rule, threshold=selection.threshold)
        found.append(label_selected(selected, block, pool_ids[where]))
    return _joined(found)


def hand_over(own: Exchange, control: RankGroup) -> Exchange:
    """Collective over all ranks: what all have selected, in the order of U, checked by digest."""
    # Cheap: with the votes, 9 ms of an epoch of 45 s (EfficientNet-B0, Caltech-101, 64 pixels).
    exchanged = _joined([_unpack(part) for part in all_gather_bytes(_pack(own), control)])
    # From here on the roles part; if they held different R, nothing later would notice.
    require_equal(_pack(exchanged), "the exchange", control)
    return exchanged


def exchange_plainly(
    shards: dict[Role, Tensor], pool_ids: Tensor, selection: SelectionConfig, rt: Runtime
) -> Exchange:
    """Collective over all ranks: the exchange without shortcuts, all votes on every rank.

    What `bring_together` and `exchange_selected` are held against; 8 bytes an image travel.
    """
    rows = gather_by_role(shards, torch.empty(0, dtype=torch.int32), rt)
    votes = unpack_votes(torch.stack([rows[Role.A], rows[Role.B]]))
    selected = select(votes, selection.rule, threshold=selection.threshold)
    return label_selected(selected, votes, pool_ids)


def _joined(parts: Sequence[Exchange]) -> Exchange:
    """One exchange of several, whose images differ; ids ascend within each."""
    joined = []
    for role in ROLES:
        ids = torch.cat([part.selected_by(role).sample_ids for part in parts])
        labels = torch.cat([part.selected_by(role).labels for part in parts])
        if not bool((ids[1:] > ids[:-1]).all()):
            # A rank of an unequal world has several parts of U, between those of others.
            ids, order = ids.sort()
            labels = labels[order]
        joined.append(PseudoLabeled(ids, labels))
    return Exchange(*joined)


def _pack(exchanged: Exchange) -> bytes:
    """|R_A|, then ids and labels of R_A and R_B: 6 bytes for each."""
    a, b = exchanged.a, exchanged.b
    assert (
        max((int(ids[-1]) for ids in (a.sample_ids, b.sample_ids) if len(ids)), default=0) < 2**31
    )
    ids = torch.cat([a.sample_ids.to(torch.int32), b.sample_ids.to(torch.int32)])
    labels = torch.cat([a.labels.to(torch.uint16), b.labels.to(torch.uint16)])
    header = torch.tensor([len(a.labels)])
    return b"".join(values.numpy().tobytes() for values in (header, ids, labels))


def _unpack(payload: bytes) -> Exchange:
    num_a = int(np.frombuffer(payload, np.int64, count=1)[0])
    # What is left holds ids and labels of both, so |R_B| need not travel.
    num = (len(payload) - 8) // 6
    ids = torch.from_numpy(np.frombuffer(payload, np.int32, num, offset=8).astype(np.int64))
    labels = np.frombuffer(payload, np.uint16, num, offset=8 + 4 * num).astype(np.int64)
    return Exchange(
        *(
            PseudoLabeled(ids[rows].clone(), torch.from_numpy(labels[rows]).clone())
            for rows in (slice(0, num_a), slice(num_a, num))
        )
    )
