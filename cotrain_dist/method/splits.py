"""The splits T, V, L_A, L_B and U, drawn per class from one seed (the paper's data groups)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from cotrain_dist.errors import UserError
from cotrain_dist.keys import keyed_generator


class Split(IntEnum):
    """The split of an image; names as in the paper (V and OUT are additions)."""

    T = 0
    V = 1
    L_A = 2
    L_B = 3
    U = 4
    # Nothing uses these: copies of other images (`method/copies.py`).
    OUT = 5


@dataclass(frozen=True, kw_only=True)
class Fractions:
    """How much of each class goes where: a float is a fraction, an int a number of images.

    U takes the rest. `labeled` is the fraction of L_A and, as much again, of L_B; None gives L_A
    and L_B all that T and V leave, half each.
    """

    test: float | int
    validation: float | int
    labeled: float | int | None


def draw_splits(
    class_ids: Tensor,
    class_names: Sequence[str],
    fractions: Fractions,
    seed: int,
    *,
    pool_needed: bool = True,
) -> Tensor:
    """The split of each image. class_ids: [N] int64 -> [N] int64 of `Split` values.

    Each class has one permutation, keyed by seed and class name. T and then V are taken from its
    front, L_A and L_B in turn from its back: so a larger labeled fraction holds every smaller one,
    and T never moves. A fraction of 0 needs no image; pool_needed says whether U does, or is filled
    from elsewhere. Raises UserError naming the classes that cannot fill every split.
    """
    # Drawn by class: a draw over all images could leave small classes out of a split.
    splits = torch.full_like(class_ids, Split.U)
    too_small, turn = [], 0
    for class_id, name in enumerate(class_names):
        members = (class_ids == class_id).nonzero().flatten()
        counts = _class_counts(len(members), fractions, pool_needed)
        if counts is None:
            too_small.append(f"{name} ({len(members)} images)")
            continue
        num_test, num_validation, num_labeled = counts
        # The name and not the id: a class that is added moves no image of the others. "groups" is
        # what splits were called in version 0.1; another word would draw other splits.
        order = torch.randperm(len(members), generator=keyed_generator(seed, "groups", name))
        members = members[order]
        back = members.flip(0)
        splits[members[:num_test]] = Split.T
        splits[members[num_test : num_test + num_validation]] = Split.V
        if fractions.labeled is None:
            # Classes take turns in who gets the odd one: L_A and L_B differ by at most one image.
            back = back[: len(members) - num_test - num_validation]
            splits[back[turn::2]], splits[back[1 - turn :: 2]] = Split.L_A, Split.L_B
            turn = (turn + len(back)) % 2
            continue
        splits[back[0 : 2 * num_labeled : 2]] = Split.L_A
        splits[back[1 : 2 * num_labeled : 2]] = Split.L_B
    if too_small:
        raise UserError(
            "data.root",
            ", ".join(too_small),
            "each class needs an image in each of T, L_A, L_B, U (and V)",
            "add images, leave these classes out, or change data.test_fraction, "
            "data.labeled_fraction and data.validation_fraction",
        )
    return splits


def draw_marked(pool_ids: Tensor, num_images: int, seed: int) -> Tensor:
    """The images of U whose labels are kept for an audit: a uniform draw, [num_images] int64.

    pool_ids: [n] int64, all of U. A larger draw from one U holds every smaller one. Raises
    UserError where U is smaller than that.
    """
    if num_images > len(pool_ids):
        raise UserError(
            "data.audit_images",
            num_images,
            f"is drawn from U, which has {len(pool_ids)} images",
            "mark fewer, or add images without labels",
        )
    # Keyed by U itself: what is labeled after a draw is chosen, and never marked, so those marked
    # then are no uniform draw from what is left.
    members = hashlib.sha256(pool_ids.numpy().tobytes()).hexdigest()
    order = torch.randperm(len(pool_ids), generator=keyed_generator(seed, "audit", members))
    return pool_ids[order[:num_images]]


def labeled_limits(class_sizes: Sequence[int], fractions: Fractions) -> tuple[float, float]:
    """The smallest and the largest labeled fraction, in steps of 0.0001, that fill every split.

    class_sizes: images of each class. `fractions.labeled` is not looked at. Raises UserError where
    no fraction does.
    """
    fixed = [
        fraction
        for fraction in (fractions.test, fractions.validation)
        if isinstance(fraction, float)
    ]
    # Rounding may fill the splits of small classes although the fractions take more than all.
    steps = [step / 10_000 for step in range(1, 5_000)]
    # The bound of DataConfig: each fraction that is tried must be one that `train` takes.
    steps = [fraction for fraction in steps if sum(fixed) + 2 * fraction < 1.0 - 1e-9]
    possible = [
        fraction
        for fraction in steps
        if all(_class_counts(n, replace(fractions, labeled=fraction), True) for n in class_sizes)
    ]
    if not possible:
        raise UserError(
            "data.root",
            f"{min(class_sizes, default=0)} images in the smallest class",
            "no labeled fraction leaves each class an image in each of T, L_A, L_B, U (and V)",
            "add images, or leave out the smallest classes",
        )
    return possible[0], possible[-1]


def _class_counts(
    num_images: int, fractions: Fractions, pool_needed: bool
) -> tuple[int, int, int] | None:
    """Images of T, V and each L in a class; None where a split would be empty."""
    num_test, num_validation, num_labeled = (
        fraction if isinstance(fraction, int) else round(fraction * num_images)
        for fraction in (fractions.test, fractions.validation, fractions.labeled or 0)
    )
    num_pool = num_images - num_test - num_validation - 2 * num_labeled
    if fractions.labeled is None:
        # One image is enough: it goes to one of the two.
        num_labeled, num_pool, pool_needed = num_pool, 0, False
    # What is given as 0 needs no image: V is optional, and T may come from data.test.
    needed = [num_labeled]
    needed += [num_test] if fractions.test else []
    needed += [num_validation] if fractions.validation else []
    if min(needed) < 1 or num_pool < int(pool_needed):
        return None
    return num_test, num_validation, num_labeled
