"""The exchange of parts against the plain one, which has all votes on every rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.method.exchange import range_of
from cotrain_dist.method.metrics import count_pool, no_counts
from cotrain_dist.method.scores import INVALID_UNCERTAINTY, LARGEST_UNCERTAINTY
from cotrain_dist.method.selection import label_selected, select
from cotrain_dist.runtime.accelerator import Runtime, start_runtime
from cotrain_dist.runtime.collectives import sum_over
from cotrain_dist.training import pool
from cotrain_dist.training.evaluate import Met, bring_together
from cotrain_dist.types import Exchange, Votes

NUM_CLASSES = 50_000
"""More than an int16 can name."""
SIZES = {0: 0, 1: 1, 7: 2, 8: 3, 9: 4, 1001: 5, 100: None}
"""Numbers of images, each with its seed; without one both models agree on all."""
WORLDS = {"1": None, "2": None, "3": None, "4": None, "4, one for A": [2], "3, one for A": [1]}
CHUNK_SIZE = 8


def random_votes(num_images: int, seed: int) -> Votes:
    """Some sure, some not, some not scored; about half of the labels are equal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (2, num_images), generator=generator)
    labels[1, ::2] = labels[0, ::2]
    codes = torch.randint(LARGEST_UNCERTAINTY + 1, (2, num_images), generator=generator)
    codes[0, ::31] = codes[1, ::29] = INVALID_UNCERTAINTY
    return Votes(labels.to(torch.uint16), codes.to(torch.int16))


def packed(votes: Votes) -> torch.Tensor:
    """[2, N] int32, as votes travel."""
    halves = torch.stack([votes.labels.view(torch.int16), votes.uncertainty], dim=-1)
    return halves.view(torch.int32)[..., 0]


def _lists(exchanged: Exchange) -> list[list[int]]:
    parts = (exchanged.a, exchanged.b)
    return [values.tolist() for part in parts for values in (part.sample_ids, part.labels)]


def _pool_of(num_images: int, seed: int | None) -> tuple[Votes, torch.Tensor, torch.Tensor]:
    """Votes on a U of so many images, its ids, and the true labels of most of them."""
    votes = random_votes(num_images, seed or 0)
    if seed is None:
        votes.labels[1] = votes.labels[0]
    pool_ids = torch.arange(num_images) * 3 + 70_000  # more than an int16 can name
    truth = torch.where(torch.arange(num_images) % 5 == 0, -1, votes.labels[0].long())
    return votes, pool_ids, truth


def _exchange_each(config: Config) -> list[dict[str, Any]]:
    """A body: for each size, both exchanges, and the counts of all parts."""
    rt = start_runtime(config)
    found = [_exchange(num_images, seed, config, rt) for num_images, seed in SIZES.items()]
    rt.close()
    return found


def _exchange(num_images: int, seed: int | None, config: Config, rt: Runtime) -> dict[str, Any]:
    votes, pool_ids, truth = _pool_of(num_images, seed)
    size, whole = config.pool.batch_size, packed(votes)
    shards = {}
    for role in rt.roles_here:
        own = range_of(role, rt.global_rank, num_images, size, rt.placement)
        shards[role] = whole[role.index, own.start : own.stop]
    met = pool.PoolVotes(tuple(bring_together(shards, num_images, size, rt)))
    selected = pool.select_here(met, pool_ids, config.selection)
    counts = no_counts(NUM_CLASSES)
    for where, block in met.blocks():
        counts += count_pool(block, truth[where], NUM_CLASSES, threshold=0.7)
    return {
        "parts": _lists(pool.hand_over(selected, rt.control)),
        "plain": _lists(pool.exchange_plainly(shards, pool_ids, config.selection, rt)),
        "own": _lists(selected),
        "counts": sum_over(counts.values, rt.control).numpy(),
    }


@pytest.mark.parametrize("world", WORLDS)
def test_parts_give_what_the_plain_exchange_gives(world: str, tmp_path: Path) -> None:
    changes = {"pool": {"batch_size": CHUNK_SIZE}, "selection": {"threshold": 0.7}}
    config = tiny_config(tmp_path, tmp_path, placement={"ranks_a": WORLDS[world]}, **changes)
    seen = run_ranks(_exchange_each, int(world[0]), tmp_path, config)
    for index, (num_images, seed) in enumerate(SIZES.items()):
        votes, pool_ids, truth = _pool_of(num_images, seed)
        selection = select(votes, "disagreement", threshold=0.7)
        expected = _lists(label_selected(selection, votes, pool_ids))
        assert num_images < 1000 or min(map(len, expected)) > 10
        assert seed is not None or expected == [[], [], [], []]
        counted = count_pool(votes, truth, NUM_CLASSES, threshold=0.7).values
        for values in (of_rank[index] for of_rank in seen):
            assert values["parts"] == values["plain"] == expected
            assert values["counts"].tolist() == counted.tolist()
        # Each image is selected by one rank; nothing is handed over twice.
        assert sum(len(of_rank[index]["own"][0]) for of_rank in seen) == len(expected[0])


def _disagree(config: Config) -> str:
    """A body: one rank loses a row on its way; the message that all raise."""
    rt = start_runtime(config)
    unpack, num_calls = pool._unpack, [0]

    def lossy(payload: bytes) -> Exchange:
        num_calls[0] += 1
        whole = unpack(payload)
        if rt.global_rank == 1 and num_calls[0] == 1:
            return Exchange.empty()
        return whole

    pool._unpack = lossy
    votes = pool.unpack_votes(packed(random_votes(100, 1)))
    selected = label_selected(
        select(votes, "disagreement", threshold=0.7), votes, torch.arange(100)
    )
    try:
        pool.hand_over(selected if rt.is_lead else Exchange.empty(), rt.control)
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        pool._unpack = unpack
        rt.close()


def test_ranks_with_another_exchange_are_noticed(tmp_path: Path) -> None:
    for message in run_ranks(_disagree, 2, tmp_path, tiny_config(tmp_path, tmp_path)):
        assert message.startswith(
            "TrainingError: the exchange differs between rank 0 and ranks [1]"
        )


def test_blocks_cover_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "BLOCK_SIZE", 4)
    whole = random_votes(20, 3)
    a, b = packed(whole)
    met = pool.PoolVotes((Met(2, a[2:11], b[2:11]), Met(15, a[15:], b[15:])))
    seen = list(met.blocks())
    assert [(where.start, where.stop) for where, _ in seen] == [
        *((2, 6), (6, 10), (10, 11)),
        *((15, 19), (19, 20)),
    ]
    for where, votes in seen:
        assert torch.equal(votes.labels.long(), whole.labels[:, where].long())
        assert torch.equal(votes.uncertainty, whole.uncertainty[:, where])
