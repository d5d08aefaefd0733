"""The groups T, V, L_A, L_B and U, drawn per class from one seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from cotrain_dist.errors import UserError
from cotrain_dist.keys import keyed_generator


class Group(IntEnum):
    """The group of an image; names as in the paper (V is an addition)."""

    T = 0
    V = 1
    L_A = 2
    L_B = 3
    U = 4


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much of each class goes where: a float is a fraction, an int a number of images.

    U takes the rest. `labeled` is the share of L_A and, as much again, of L_B.
    """

    test: float | int
    validation: float | int
    labeled: float | int


def draw_groups(
    class_ids: Tensor,
    class_names: Sequence[str],
    shares: Shares,
    seed: int,
    *,
    pool_needed: bool = True,
) -> Tensor:
    """The group of each image. class_ids: [N] int64 -> [N] int64 of `Group` values.

    Each class has one permutation, keyed by seed and class name. T and then V are taken from its
    front, L_A and L_B in turn from its back: so a larger labeled share holds every smaller one, and
    T never moves. A share of 0 needs no image; pool_needed says whether U does, or is filled from
    elsewhere. Raises UserError naming the classes that cannot fill every group.
    """
    groups = torch.full_like(class_ids, Group.U)
    too_small = []
    for class_id, name in enumerate(class_names):
        members = (class_ids == class_id).nonzero().flatten()
        counts = _class_counts(len(members), shares, pool_needed)
        if counts is None:
            too_small.append(f"{name} ({len(members)} images)")
            continue
        num_test, num_validation, num_labeled = counts
        order = torch.randperm(len(members), generator=keyed_generator(seed, "groups", name))
        members = members[order]
        back = members.flip(0)
        groups[members[:num_test]] = Group.T
        groups[members[num_test : num_test + num_validation]] = Group.V
        groups[back[0 : 2 * num_labeled : 2]] = Group.L_A
        groups[back[1 : 2 * num_labeled : 2]] = Group.L_B
    if too_small:
        raise UserError(
            "data.root",
            ", ".join(too_small),
            "each class needs an image in each of T, L_A, L_B, U (and V)",
            "add images, leave these classes out, or change data.test_fraction, "
            "data.labeled_fraction and data.validation_fraction",
        )
    return groups


def labeled_limits(class_sizes: Sequence[int], shares: Shares) -> tuple[float, float]:
    """The smallest and the largest labeled fraction, in steps of 0.0001, that fill every group.

    class_sizes: images of each class. `shares.labeled` is not looked at. Raises UserError where no
    fraction does.
    """
    fixed = [share for share in (shares.test, shares.validation) if isinstance(share, float)]
    # Rounding may fill the groups of small classes although the fractions take more than all.
    steps = [step / 10_000 for step in range(1, 5_000)]
    steps = [share for share in steps if sum(fixed) + 2 * share < 1.0 - 1e-9]
    possible = [
        share
        for share in steps
        if all(_class_counts(n, replace(shares, labeled=share), True) for n in class_sizes)
    ]
    if not possible:
        raise UserError(
            "data.root",
            f"{min(class_sizes, default=0)} images in the smallest class",
            "no labeled share leaves each class an image in each of T, L_A, L_B, U (and V)",
            "add images, or leave out the smallest classes",
        )
    return possible[0], possible[-1]


def _class_counts(
    num_images: int, shares: Shares, pool_needed: bool
) -> tuple[int, int, int] | None:
    """Images of T, V and each L in a class; None where a group would be empty."""
    num_test, num_validation, num_labeled = (
        share if isinstance(share, int) else round(share * num_images)
        for share in (shares.test, shares.validation, shares.labeled)
    )
    num_pool = num_images - num_test - num_validation - 2 * num_labeled
    needed = [num_labeled]
    needed += [num_test] if shares.test else []
    needed += [num_validation] if shares.validation else []
    if min(needed) < 1 or num_pool < int(pool_needed):
        return None
    return num_test, num_validation, num_labeled
