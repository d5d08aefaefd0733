"""Where votes meet; whose R each role learns (paper, section 3 step 2 and section 4.2)."""

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cotrain_dist.method.placement import Placement, chunks_of_rank
from cotrain_dist.types import Exchange, PseudoLabeled, Role, TrainingSet


def teacher_of(role: Role, epoch: int, exchange: str, parity: str) -> Role | None:
    """The role whose R `role` learns in this epoch (counted from 1), or None.

    `alternate` is the paper's Condition 2, its own R and the peer's in turn; `parity` says in which
    epochs its own, since sections 3 (even) and 4.2 (odd) differ. `peer` and `own` are two readings
    of Condition 1; `none` learns no pseudo-labels.

    >>> [teacher_of(Role.A, epoch, "alternate", "even_own").value for epoch in (1, 2, 3)]
    ['b', 'a', 'b']
    """
    match exchange:
        case "alternate":
            # The parity is that of epochs counted from 1: counted from 0, the two settings would be
            # exchanged.
            own_epochs = 0 if parity == "even_own" else 1
            return role if epoch % 2 == own_epochs else role.peer
        case "peer":
            return role.peer
        case "own":
            return role
        case "none":
            return None
        case _:
            raise AssertionError(f"exchange {exchange} is no value of the config")


def taught_to(
    role: Role, exchanged: Exchange, epoch: int, exchange: str, parity: str
) -> PseudoLabeled:
    """The pseudo-labeled images that `role` learns in this epoch, maybe none."""
    teacher = teacher_of(role, epoch, exchange, parity)
    # An empty R is no special case below: the epoch is then one on labeled images alone.
    return PseudoLabeled.empty() if teacher is None else exchanged.selected_by(teacher)


def training_set(
    labeled: TrainingSet, taught: PseudoLabeled, pseudo_weight: float = 1.0
) -> TrainingSet:
    """What a model learns in an epoch: its labeled images, then those it was taught.

    pseudo_weight: the factor on the weights of all that was taught, which are then float32 again.
    """
    # L first, then R. The keyed order of an epoch is one of rows, so another order of rows here
    # would be another training, although it has the same images.
    is_pseudo = torch.ones(len(taught.labels), dtype=torch.bool)
    return TrainingSet(
        sample_ids=torch.cat([labeled.sample_ids, taught.sample_ids]),
        targets=torch.cat([labeled.targets, taught.labels]),
        is_pseudo=torch.cat([labeled.is_pseudo, is_pseudo]),
        weights=_weights_of(labeled, taught, pseudo_weight),
        soft=taught.probs,
    )


def _weights_of(labeled: TrainingSet, taught: PseudoLabeled, pseudo_weight: float) -> Tensor | None:
    """[N] float32; None where all are 1, which is another kernel and other last bits."""
    if not len(taught.labels) or (taught.weights is None and pseudo_weight == 1.0):
        return labeled.weights
    own = torch.ones(len(labeled)) if labeled.weights is None else labeled.weights
    weights = torch.ones(len(taught.labels)) if taught.weights is None else taught.weights
    return torch.cat([own, weights * pseudo_weight])


def choose_views(learned: TrainingSet, pseudo_view: str, usual: str, epoch: int) -> TrainingSet:
    """The training set with the views of its pseudo-labeled rows as `train.pseudo_view` says.

    usual: the augmentation of all others, `crop_flip` or `strong`. epoch: counted from 1.
    """
    match pseudo_view:
        case "same":
            return learned
        case "strong":
            is_pseudo_strong = True
        case "in_turn":
            is_pseudo_strong = epoch % 2 == 0
        case _:
            raise AssertionError(f"train.pseudo_view {pseudo_view} is no value of the config")
    others = torch.full((len(learned),), usual == "strong")
    return replace(learned, is_strong=torch.where(learned.is_pseudo, is_pseudo_strong, others))


def with_unlabeled(learned: TrainingSet, pool_ids: Tensor) -> TrainingSet:
    """The training set with all of U, for consistency: rows of target -1, which is no index.

    pool_ids: [N] int64. They come first, since soft targets are those of the last rows.
    """
    num_pool = len(pool_ids)

    def before(values: Tensor | None, fill: float) -> Tensor | None:
        return None if values is None else torch.cat([values.new_full((num_pool,), fill), values])

    return replace(
        learned,
        sample_ids=torch.cat([pool_ids, learned.sample_ids]),
        targets=torch.cat([torch.full((num_pool,), -1), learned.targets]),
        is_pseudo=torch.cat([torch.ones(num_pool, dtype=torch.bool), learned.is_pseudo]),
        weights=before(learned.weights, 1.0),
        is_strong=before(learned.is_strong, True),
    )


@dataclass(frozen=True)
class Meeting:
    """Images [start, stop) of U on which one rank brings both models' votes together."""

    start: int
    stop: int
    sender: int
    """Global rank whose votes travel; the receiver itself where it holds both models."""
    receiver: int
    """Global rank that selects among these images, and counts them."""
    role: Role
    """The role of the receiver; the votes of its peer travel."""


def meetings(num_items: int, batch_size: int, placement: Placement) -> list[Meeting]:
    """Every image of U in one meeting, ascending: the same list on every rank.

    A's and B's ranks cut U in different places where their numbers differ. Of each range that one
    rank of A and one of B hold, A's rank takes the first half and B's the second: each vote travels
    once at most, and all ranks share the work.
    """
    found: list[Meeting] = []
    of_a = _ranges_of(Role.A, num_items, batch_size, placement)
    of_b = _ranges_of(Role.B, num_items, batch_size, placement)
    while of_a and of_b:  # both ascend over all of U, so each is passed over once
        (rank_a, start_a, stop_a), (rank_b, start_b, stop_b) = of_a[0], of_b[0]
        start, stop = max(start_a, start_b), min(stop_a, stop_b)
        if rank_a == rank_b:
            found.append(Meeting(start, stop, rank_a, rank_a, Role.A))
        else:
            middle = (start + stop + 1) // 2
            found.append(Meeting(start, middle, rank_b, rank_a, Role.A))
            if middle < stop:
                found.append(Meeting(middle, stop, rank_a, rank_b, Role.B))
        for ranges in (of_a, of_b):
            if ranges[0][2] == stop:
                ranges.popleft()
    return found


def range_of(role: Role, rank: int, num_items: int, batch_size: int, placement: Placement) -> range:
    """The images of U that a rank of a role passes over, by their place in U."""
    ranks = placement.ranks_of(role)
    chunks = chunks_of_rank(num_items, batch_size, ranks.index(rank), len(ranks))
    return range(chunks[0][0], chunks[-1][1]) if chunks else range(0)


def _ranges_of(
    role: Role, num_items: int, batch_size: int, placement: Placement
) -> deque[tuple[int, int, int]]:
    """(rank, start, stop) of each rank of a role that has any images, ascending."""
    ranges = {
        rank: range_of(role, rank, num_items, batch_size, placement)
        for rank in placement.ranks_of(role)
    }
    return deque((rank, own.start, own.stop) for rank, own in ranges.items() if own)
