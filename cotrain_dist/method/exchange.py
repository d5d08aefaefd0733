"""Whose R each role learns from in an epoch (paper, section 3 step 2 and section 4.2)."""

import torch

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


def training_set(labeled: TrainingSet, taught: PseudoLabeled) -> TrainingSet:
    """What a model learns in an epoch: its labeled images, then those it was taught."""
    # L first, then R. The keyed order of an epoch is one of rows, so another order of rows here
    # would be another training, although it has the same images.
    is_pseudo = torch.ones(len(taught.labels), dtype=torch.bool)
    return TrainingSet(
        sample_ids=torch.cat([labeled.sample_ids, taught.sample_ids]),
        targets=torch.cat([labeled.targets, taught.labels]),
        is_pseudo=torch.cat([labeled.is_pseudo, is_pseudo]),
    )
