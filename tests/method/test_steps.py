"""Cutting an epoch: every sample once, parts of nearly one size, an order that only keys decide."""

import itertools

import pytest
import torch

from cotrain_dist.method.steps import (
    EpochPlan,
    num_steps_of,
    order_samples,
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
