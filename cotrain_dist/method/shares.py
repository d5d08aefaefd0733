"""The steps of an epoch that hold a least share of labeled images, or each class equally often.

As in `method.steps`, the steps are rows of the training set, and no rank or micro-batch decides
any of them.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from cotrain_dist.method.steps import num_steps_of, order_samples, spread

Key = tuple[int | str, ...]


@dataclass(frozen=True)
class EpochCut:
    """How many steps an epoch has, and rows in all of them, repeated ones counted each time."""

    num_steps: int
    num_rows: int

    @property
    def smallest_step(self) -> int:
        """Rows of the smallest step."""
        return self.num_rows // self.num_steps


def cut_epoch(
    num_labeled: int, num_pseudo: int, batch_size: int, least_labeled_fraction: float = 0.0
) -> EpochCut:
    """The steps of an epoch, each of at most `batch_size` rows.

    least_labeled_fraction: 0 <= it < 1, of each step. Where each image once would give a step too
    few labeled ones, labeled ones are repeated: the pseudo-labeled images then decide the number of
    steps, and all steps are of one size.

    >>> cut_epoch(10, 30, 8), cut_epoch(10, 30, 8, 0.5)
    (EpochCut(num_steps=5, num_rows=40), EpochCut(num_steps=8, num_rows=64))
    """
    least = _exactly(least_labeled_fraction)
    total = num_labeled + num_pseudo
    once = EpochCut(num_steps_of(total, batch_size), total)
    if _has_share(once, num_pseudo, least):
        return once
    most_pseudo = int((1 - least) * batch_size)
    num_steps = max(once.num_steps, num_steps_of(num_pseudo, most_pseudo))
    pseudo = -(-num_pseudo // num_steps)
    size = max(-(-pseudo // (1 - least)), -(-total // num_steps))
    return EpochCut(num_steps, num_steps * size)


def _exactly(fraction: float) -> Fraction:
    # As it is written: 1 - 0.9 in floats leaves 0.99... of ten images, which would be none.
    return Fraction(str(fraction))


def _has_share(cut: EpochCut, num_pseudo: int, least: Fraction) -> bool:
    """Whether every step has its share of labeled rows."""
    rows, larger = divmod(cut.num_rows, cut.num_steps)
    pseudo, with_more = divmod(num_pseudo, cut.num_steps)
    # Both are spread with the larger parts first, so there are three kinds of steps at most.
    for step in (0, larger, with_more):
        step = min(step, cut.num_steps - 1)
        size, taught = rows + (step < larger), pseudo + (step < with_more)
        if size - taught < least * size:
            return False
    return True


def smallest_step_up_to(
    num_labeled: int, num_most_pseudo: int, batch_size: int, least_labeled_fraction: float = 0.0
) -> int:
    """Rows of the smallest step over epochs with any number of pseudo-labeled images up to one.

    >>> smallest_step_up_to(64, 1000, 64), smallest_step_up_to(10, 1000, 64, 0.9)
    (32, 10)
    """
    # One image more than a number of full steps holds makes one step more, and all of them smaller;
    # a test compares with all numbers.
    worst = 1 - num_labeled % batch_size
    candidates = {0, worst, worst + batch_size}
    if least_labeled_fraction:
        # The same where pseudo-labeled images decide the number of steps: of two steps, of the
        # first number that needs repeated labeled images, and of the largest number.
        least = _exactly(least_labeled_fraction)
        most = int((1 - least) * batch_size)
        num_once = int(num_labeled * (1 - least) / least)
        candidates |= {most + 1, (num_once // most + 1) * most + 1}
        candidates |= {(num_most_pseudo - 1) // most * most + 1}
    return min(
        cut_epoch(num_labeled, num, batch_size, least_labeled_fraction).smallest_step
        for num in candidates
        if 0 <= num <= num_most_pseudo
    )


def mix_steps(
    is_pseudo: Tensor,
    targets: Tensor,
    *,
    batch_size: int,
    least_labeled_fraction: float,
    class_balanced: bool,
    key: Key,
) -> tuple[Tensor, ...]:
    """The rows of each step of an epoch, [n] int64 each, labeled ones maybe several times.

    is_pseudo: [N] bool; targets: [N] int64. Each pseudo-labeled row comes once. Labeled rows come
    in passes, each in a keyed order of its own; class_balanced: as many of them from every class
    that has some, or one more, and from each class in such passes. Steps are those of `cut_epoch`.
    """
    labeled, pseudo = (rows.nonzero().flatten() for rows in (~is_pseudo, is_pseudo))
    cut = cut_epoch(len(labeled), len(pseudo), batch_size, least_labeled_fraction)
    num_drawn = cut.num_rows - len(pseudo)
    if class_balanced:
        drawn = labeled[_in_turns(targets[labeled], num_drawn, key)]
    else:
        drawn = labeled[_in_passes(len(labeled), num_drawn, key)]
    taught = pseudo[order_samples(len(pseudo), "pseudo", *key)]
    sizes, sizes_taught = (spread(num, cut.num_steps) for num in (cut.num_rows, len(pseudo)))
    sizes_drawn = [size - own for size, own in zip(sizes, sizes_taught, strict=True)]
    parts = zip(drawn.split(sizes_drawn), taught.split(sizes_taught), strict=True)
    # Mixed within the step, or the first rank and micro-batch would have all its labeled rows.
    return tuple(
        torch.cat(part)[order_samples(size, "mix", step, *key)]
        for step, (part, size) in enumerate(zip(parts, sizes, strict=True))
    )


def _in_passes(num_items: int, num: int, key: Key) -> Tensor:
    """`num` places among items, [num] int64: all of them in a keyed order, again and again."""
    passes = [
        order_samples(num_items, "pass", index, *key)
        for index in range(num_steps_of(num, num_items))
    ]
    return torch.cat(passes)[:num]


def _in_turns(targets: Tensor, num: int, key: Key) -> Tensor:
    """`num` places among labeled rows, [num] int64: one of each class in every turn.

    targets: [L] int64. The classes of a turn are in a keyed order.
    """
    classes, counts = targets.unique(return_counts=True)
    num_turns = num_steps_of(num, len(classes))
    members = targets.argsort(stable=True).split(counts.tolist())
    turns = torch.stack(
        [
            own[_in_passes(len(own), num_turns, (target, *key))]
            for target, own in zip(classes.tolist(), members, strict=True)
        ],
        dim=1,
    )
    orders = [order_samples(len(classes), "turn", turn, *key) for turn in range(num_turns)]
    return turns.gather(1, torch.stack(orders)).flatten()[:num]
