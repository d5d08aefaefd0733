"""How an epoch's samples are ordered and cut: into steps, ranks and micro-batches.

Order and steps do not depend on the number of ranks; only the cut inside a step does.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cotrain_dist.keys import keyed_generator


def spread(num_items: int, num_parts: int) -> list[int]:
    """Sizes of parts that differ by at most one, the larger ones first.

    >>> spread(7, 3)
    [3, 2, 2]
    """
    # Every cut in this package is made here: chunks, steps, ranks and micro-batches.
    size, larger = divmod(num_items, num_parts)
    return [size + (part < larger) for part in range(num_parts)]


def num_steps_of(num_samples: int, batch_size: int) -> int:
    """ceil(N / batch_size): the optimizer steps of an epoch."""
    return -(-num_samples // batch_size)


def order_samples(num_samples: int, *key: int | str) -> Tensor:
    """Keyed permutation of an epoch's samples, [N] int64."""
    # By the key alone: what was drawn before, by whom and in which world changes no place in it.
    return torch.randperm(num_samples, generator=keyed_generator(*key))


def split_into_steps(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """The samples of each step: ceil(N / batch_size) parts whose sizes differ by at most one.

    Nothing is dropped and no rest forms a tiny last batch, which batch normalization would meet
    with one image.
    """
    return torch.split(order, spread(len(order), num_steps_of(len(order), batch_size)))


def split_step(step: Tensor, num_ranks: int, num_micro: int) -> list[list[Tensor]]:
    """The micro-batches of each rank in one step: [rank][micro-batch] -> [n] positions.

    The one place that decides who sees which sample of a step; sizes differ by at most one over
    ranks, and over the micro-batches of a rank.
    """
    ranks = torch.split(step, spread(len(step), num_ranks))
    return [list(torch.split(rank, spread(len(rank), num_micro))) for rank in ranks]


def shards_of_rank(rank: int, num_ranks: int, num_shards: int) -> range:
    """Which shards of each step a rank of a role takes: neighbors, in order.

    >>> shards_of_rank(1, 3, 4), shards_of_rank(1, 3, 3)
    (range(2, 3), range(1, 2))
    """
    sizes = spread(num_shards, num_ranks)
    start = sum(sizes[:rank])
    return range(start, start + sizes[rank])


@dataclass(frozen=True)
class EpochPlan:
    """The steps of one epoch, and which rows of the training set each shard of a step takes.

    steps: rows of each step, [n] int64. A step is cut into `num_shards`, one for each rank of the
    role or as many as `train.exact_elastic` says, and each shard into `num_micro` micro-batches.
    """

    steps: tuple[Tensor, ...]
    num_shards: int
    num_micro: int
    repeats: bool = False
    """Whether a row may come more than once: views are then keyed by the step as well, else an
    image would look the same each time."""

    def micro_batches(self, step: int, shard: int) -> list[Tensor]:
        """The rows of each micro-batch of one shard."""
        return split_step(self.steps[step], self.num_shards, self.num_micro)[shard]

    def cut(self, num_steps: int) -> "EpochPlan":
        """The first steps alone: for measuring what a step costs."""
        return replace(self, steps=self.steps[:num_steps])


def plan_epoch(
    num_samples: int,
    *,
    batch_size: int,
    num_shards: int,
    num_micro: int,
    key: tuple[int | str, ...],
) -> EpochPlan:
    """The plan of an epoch over `num_samples` rows, whose order the key decides.

    A pure function, so that training can be entered at any step of any epoch.
    """
    order = order_samples(num_samples, "order", *key)
    return EpochPlan(split_into_steps(order, batch_size), num_shards, num_micro)


def consistency_shares(batch_size: int, ratio: int) -> tuple[int, int]:
    """How many labeled and unlabeled images each step holds: 1 to `ratio`, as near as it gets.

    At least one labeled image, and at most half of them.

    >>> consistency_shares(64, 7), consistency_shares(15, 7), consistency_shares(3, 1)
    ((8, 56), (2, 13), (1, 2))
    """
    num_labeled = max(1, (2 * batch_size + ratio) // (2 * (1 + ratio)))
    return num_labeled, batch_size - num_labeled


def num_consistency_steps(num_labeled: int, num_unlabeled: int, batch_size: int, ratio: int) -> int:
    """Steps of an epoch of `plan_consistency`."""
    own, others = consistency_shares(batch_size, ratio)
    return max(num_steps_of(num_labeled, own), num_steps_of(num_unlabeled, others))


def plan_consistency(
    is_labeled: Tensor,
    *,
    batch_size: int,
    ratio: int,
    num_shards: int,
    num_micro: int,
    key: tuple[int | str, ...],
) -> EpochPlan:
    """The plan of an epoch whose steps hold labeled and unlabeled rows, in shares that stay.

    is_labeled: [N] bool, both kinds are there. The epoch is one pass over the unlabeled rows, or
    over the labeled ones where that takes more steps: every row comes once at least, nothing is
    dropped. What is missing to the last step, and to all steps of the shorter kind, are further
    passes, each in a keyed order of its own. So all steps are of `batch_size`, whatever R holds.
    """
    kinds = (is_labeled.nonzero().flatten(), (~is_labeled).nonzero().flatten())
    shares = consistency_shares(batch_size, ratio)
    num_steps = num_consistency_steps(len(kinds[0]), len(kinds[1]), batch_size, ratio)
    labeled, unlabeled = (
        kind[_order_in_passes(len(kind), num_steps * share, name, *key)].split(share)
        for kind, share, name in zip(kinds, shares, ("labeled", "unlabeled"), strict=True)
    )
    # Evenly through the step: each shard and micro-batch gets its share of both kinds, and every
    # part of two rows an unlabeled one.
    places = (2 * torch.arange(shares[0]) + 1) * batch_size // (2 * shares[0])
    is_place = torch.zeros(batch_size, dtype=torch.bool)
    is_place[places] = True
    steps = []
    for own, others in zip(labeled, unlabeled, strict=True):
        rows = torch.empty(batch_size, dtype=torch.int64)
        rows[is_place], rows[~is_place] = own, others
        steps.append(rows)
    return EpochPlan(tuple(steps), num_shards, num_micro, repeats=True)


def _order_in_passes(num_rows: int, num_wanted: int, *key: int | str) -> Tensor:
    """[num_wanted] int64: keyed passes over the rows, one after the other."""
    num_passes = -(-num_wanted // num_rows)
    order = [order_samples(num_rows, "pass", number, *key) for number in range(num_passes)]
    return torch.cat(order)[:num_wanted]
