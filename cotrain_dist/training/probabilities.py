"""The exchange with probabilities of all classes: votes and means on every rank.

For rules and targets that 4 bytes of an image do not serve. Costs 2 bytes per image, class and
model on every rank; `training/pool.py` costs 4 bytes per image and model, on one rank alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cotrain_dist.config import SelectionConfig
from cotrain_dist.method.scores import to_probs, vote
from cotrain_dist.method.selection import select_from_all
from cotrain_dist.method.splits import Split
from cotrain_dist.method.targets import log_probs, sharpen
from cotrain_dist.runtime.collectives import require_equal
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import bring_together, gather_by_role, pass_over
from cotrain_dist.training.pool import (
    PoolVotes,
    at_temperature,
    packed_votes,
    unpack_votes,
    with_cuts,
)
from cotrain_dist.training.structure import correct_by_structure
from cotrain_dist.training.student import Classifier
from cotrain_dist.types import Exchange, PseudoLabeled, Role, Votes


def exchange_probabilities(
    students: Sequence[Classifier],
    stores: Sequence[FeatureStore],
    images: Images,
    ctx: RunContext,
) -> tuple[PoolVotes, Exchange]:
    """Collective over all ranks: both models' votes on this rank's part of U; R_A and R_B.

    stores: of both models' features; empty without `structure.kind`.
    """
    pool_ids, clock = images.table.sample_ids(Split.U), ctx.runtime.clock
    with clock.measure("pseudo_label"):
        said = {
            student.role: pass_over(
                student,
                pool_ids,
                at_temperature(student, _votes_and_probs),
                "label U:",
                images,
                ctx,
            )
            for student in students
        }
    ctx.runtime.wait_for_all()
    with clock.measure("exchange"):
        packed = {role: _as_votes(rows) for role, rows in said.items()}
        met = bring_together(packed, len(pool_ids), ctx.config.pool.batch_size, ctx.runtime)
        nothing = _votes_and_probs(torch.empty(0, len(images.table.class_names)))
        rows = gather_by_role(said, nothing, ctx.runtime)
    mean = (_as_probs(rows[Role.A]).double() + _as_probs(rows[Role.B]).double()) / 2
    with clock.measure("structure"), ctx.runtime.progress.excused():
        probs = correct_by_structure(mean.half(), stores, images, ctx)
    with clock.measure("exchange"):
        votes = unpack_votes(torch.stack([_as_votes(rows[role]) for role in (Role.A, Role.B)]))
        exchanged = select_with_probs(votes, probs, pool_ids, ctx.config.selection)
        for part in (exchanged.a, exchanged.b):
            require_equal(_bytes_of(part), "the exchange", ctx.runtime.control)
        of_part = with_cuts(met, ctx.config.selection, mean.shape[1], ctx.runtime.control)
    return of_part, exchanged


def select_with_probs(
    votes: Votes, probs: Tensor, pool_ids: Tensor, selection: SelectionConfig
) -> Exchange:
    """R_A and R_B from both models' votes [2, N] and the probabilities [N, C] float64 of U.

    The third row of votes that rules of the mean look at is that of `probs`. Pure.
    """
    third = vote(log_probs(probs))
    all_votes = Votes(
        torch.cat([votes.labels, third.labels[None]]),
        torch.cat([votes.uncertainty, third.uncertainty[None]]),
    )
    exchanged = select_from_all(all_votes, pool_ids, selection, probs.shape[1])
    if selection.targets == "hard":
        return exchanged
    targets = sharpen(probs, selection.sharpen).half()
    return Exchange(
        *(
            replace(part, probs=targets[torch.searchsorted(pool_ids, part.sample_ids)])
            for part in (exchanged.a, exchanged.b)
        )
    )


def _votes_and_probs(logits: Tensor) -> Tensor:
    """What is kept of a chunk: its packed vote and the bits of its float16 probabilities.

    [n, C] float -> [n, 2 + C] int16.
    """
    votes = packed_votes(logits).cpu().view(torch.int16).view(-1, 2)
    return torch.cat([votes, to_probs(logits).half().cpu().view(torch.int16)], dim=1)


def _as_votes(rows: Tensor) -> Tensor:
    """[n, 2 + C] int16 -> [n] int32, as votes travel."""
    return rows[:, :2].contiguous().view(torch.int32)[:, 0]


def _as_probs(rows: Tensor) -> Tensor:
    """[n, 2 + C] int16 -> [n, C] float16."""
    return rows[:, 2:].contiguous().view(torch.float16)


def _bytes_of(part: PseudoLabeled) -> bytes:
    values = (part.sample_ids, part.labels, part.weights, part.probs)
    return b"".join(own.numpy().tobytes() for own in values if own is not None)
