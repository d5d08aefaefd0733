"""Cutting an epoch: every sample once, parts of nearly one size, an order that only keys decide."""

import itertools
from typing import Any

import pytest
import torch

from cotrain_dist.method.steps import (
    EpochPlan,
    consistency_shares,
    num_consistency_steps,
    num_steps_of,
    order_samples,
    plan_consistency,
    plan_epoch,
    split_into_steps,
    split_step,
    spread,
)

NUM_SAMPLES = (1, 2, 5, 63, 64, 65, 127, 130)
BATCH_SIZES = (2, 7, 64)
NUM_RANKS = (1, 2, 3, 5)
NUM_MICRO = (1, 2, 3)


@pytest.mark.parametrize(
    ("num_items", "num_parts", "sizes"),
    [
        (7, 3, [3, 2, 2]),
        (6, 3, [2, 2, 2]),
        (8, 3, [3, 3, 2]),
        (2, 4, [1, 1, 0, 0]),
        (0, 2, [0, 0]),
        (5, 1, [5]),
    ],
)
def test_spread(num_items: int, num_parts: int, sizes: list[int]) -> None:
    assert spread(num_items, num_parts) == sizes


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "sizes"),
    [
        (64, 64, [64]),
        (65, 64, [33, 32]),
        (1, 64, [1]),
        (10, 4, [4, 3, 3]),
        (8, 4, [4, 4]),
        (129, 64, [43, 43, 43]),
    ],
)
def test_steps_of_an_epoch(num_samples: int, batch_size: int, sizes: list[int]) -> None:
    assert num_steps_of(num_samples, batch_size) == len(sizes)
    steps = split_into_steps(torch.arange(num_samples), batch_size)
    assert [len(step) for step in steps] == sizes
    assert torch.cat(steps).tolist() == list(range(num_samples))


def test_ranks_and_micro_batches_of_a_step() -> None:
    parts = split_step(torch.arange(100, 111), num_ranks=2, num_micro=2)
    found = [[micro.tolist() for micro in rank] for rank in parts]
    assert found == [[[100, 101, 102], [103, 104, 105]], [[106, 107, 108], [109, 110]]]


@pytest.mark.parametrize("num_samples", NUM_SAMPLES)
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_every_sample_once_in_parts_of_nearly_one_size(num_samples: int, batch_size: int) -> None:
    order = order_samples(num_samples, 0, "order")
    steps = split_into_steps(order, batch_size)
    assert len(steps) == -(-num_samples // batch_size)
    num_cases = 0
    for num_ranks, num_micro in itertools.product(NUM_RANKS, NUM_MICRO):
        cut = [split_step(step, num_ranks, num_micro) for step in steps]
        assert {len(ranks) for ranks in cut} == {num_ranks}
        assert {len(micros) for ranks in cut for micros in ranks} == {num_micro}
        seen = torch.cat([micro for ranks in cut for micros in ranks for micro in micros])
        assert sorted(seen.tolist()) == list(range(num_samples))
        for ranks, step in zip(cut, steps, strict=True):  # the step holds the same, for any cut
            assert torch.equal(torch.cat([torch.cat(micros) for micros in ranks]), step)
        by_rank = [sum(map(len, micros)) for ranks in cut for micros in ranks]
        assert max(by_rank) - min(by_rank) <= 1
        by_micro = [len(micro) for ranks in cut for micros in ranks for micro in micros]
        assert max(by_micro) - min(by_micro) <= 1
        num_cases += 1
    assert num_cases == 12


def test_order_is_a_permutation_decided_by_its_key() -> None:
    order = order_samples(50, 0, "order", "a", 1)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(50))
    assert order.tolist() != list(range(50))
    torch.rand(7)
    assert torch.equal(order_samples(50, 0, "order", "a", 1), order)
    for other in ((1, "order", "a", 1), (0, "order", "b", 1), (0, "order", "a", 2)):
        assert not torch.equal(order_samples(50, *other), order)


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_a_plan_is_a_pure_function_of_its_key(num_shards: int) -> None:
    def plan(epoch: int, shards: int = num_shards) -> EpochPlan:
        key = (0, "a", "pretrain", epoch)
        return plan_epoch(65, batch_size=16, num_shards=shards, num_micro=2, key=key)

    first, again, other = plan(1), plan(1), plan(2)
    assert len(first.steps) == 5
    assert all(map(torch.equal, first.steps, again.steps))
    assert not all(map(torch.equal, first.steps, other.steps))
    assert all(map(torch.equal, first.steps, plan(1, 1).steps)), "no step depends on the ranks"
    for step, rows in enumerate(first.steps):
        parts = [first.micro_batches(step, shard) for shard in range(num_shards)]
        assert all(len(shard) == 2 for shard in parts)
        assert torch.equal(torch.cat([part for shard in parts for part in shard]), rows)
    cut = first.cut(2)
    assert len(cut.steps) == 2
    assert torch.equal(cut.micro_batches(1, 0)[0], first.micro_batches(1, 0)[0])


def _plan_consistency(
    num_labeled: int, num_unlabeled: int, *, batch_size: int = 16, ratio: int = 3, **other: Any
) -> EpochPlan:
    """Unlabeled rows come first, as in a training set."""
    is_labeled = torch.arange(num_unlabeled + num_labeled) >= num_unlabeled
    settings = {"num_shards": 1, "num_micro": 1, "key": (0, "a", 1)} | other
    return plan_consistency(is_labeled, batch_size=batch_size, ratio=ratio, **settings)


@pytest.mark.parametrize("ratio", [1, 2, 7, 100])
@pytest.mark.parametrize("batch_size", [2, 3, 15, 64])
def test_a_step_holds_both_kinds_of_images(batch_size: int, ratio: int) -> None:
    num_labeled, num_unlabeled = consistency_shares(batch_size, ratio)
    assert num_labeled + num_unlabeled == batch_size
    assert 1 <= num_labeled <= num_unlabeled
    if batch_size > ratio:
        assert abs(num_labeled - batch_size / (1 + ratio)) <= 0.5
    plan = _plan_consistency(5, 230, batch_size=batch_size, ratio=ratio)
    for rows in plan.steps:
        assert len(rows) == batch_size
        assert int((rows >= 230).sum()) == num_labeled


@pytest.mark.parametrize(
    ("num_labeled", "num_unlabeled", "num_steps"),
    [(4, 120, 10), (4, 121, 11), (40, 12, 10), (41, 12, 11), (40, 120, 10), (1, 1, 1)],
)
def test_an_epoch_is_a_pass_over_the_kind_that_takes_longer(
    num_labeled: int, num_unlabeled: int, num_steps: int
) -> None:
    """Of 16 images of a step, 4 are labeled and 12 are not."""
    plan = _plan_consistency(num_labeled, num_unlabeled)
    assert len(plan.steps) == num_consistency_steps(num_labeled, num_unlabeled, 16, 3) == num_steps
    counts = torch.cat(plan.steps).bincount(minlength=num_labeled + num_unlabeled)
    # Whole passes: within a kind, no row is learned twice more than another one.
    for kind in (counts[:num_unlabeled], counts[num_unlabeled:]):
        assert int(kind.min()) >= 1
        assert int(kind.max()) - int(kind.min()) <= 1
    assert int(counts[num_unlabeled:].sum()) == 4 * num_steps


def test_each_pass_has_an_order_of_its_own() -> None:
    plan = _plan_consistency(8, 240)
    labeled = torch.cat([rows[rows >= 240] for rows in plan.steps])
    passes = labeled.view(-1, 8)
    assert len(passes) == 10
    assert all(sorted(own.tolist()) == list(range(240, 248)) for own in passes)
    assert len({tuple(own.tolist()) for own in passes}) == 10
    assert plan.repeats
    assert not plan_epoch(9, batch_size=3, num_shards=1, num_micro=1, key=(0,)).repeats


@pytest.mark.parametrize(("num_shards", "num_micro"), [(1, 1), (2, 1), (3, 2), (8, 1)])
def test_every_part_of_a_step_gets_its_share(num_shards: int, num_micro: int) -> None:
    plan = _plan_consistency(30, 200, num_shards=num_shards, num_micro=num_micro)
    alone = _plan_consistency(30, 200)
    num_parts = num_shards * num_micro
    for step, rows in enumerate(plan.steps):
        assert torch.equal(rows, alone.steps[step]), "no step depends on the ranks"
        parts = [p for shard in range(num_shards) for p in plan.micro_batches(step, shard)]
        for part in parts:
            num_labeled = int((part >= 200).sum())
            assert abs(num_labeled - 4 / num_parts) < 1
            assert num_labeled < len(part), "no part without an unlabeled image"


def test_a_plan_of_consistency_is_a_pure_function_of_its_key() -> None:
    first, again = _plan_consistency(9, 60), _plan_consistency(9, 60)
    other = _plan_consistency(9, 60, key=(0, "a", 2))
    assert all(map(torch.equal, first.steps, again.steps))
    assert not all(map(torch.equal, first.steps, other.steps))
