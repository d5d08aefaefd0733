"""The exchange of parts against the plain one, which has all votes on every rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks, tiny_config
from tiers import slow_but

from cotrain_dist.config import Config, SelectionConfig
from cotrain_dist.method.exchange import range_of
from cotrain_dist.method.metrics import count_pool, no_counts
from cotrain_dist.method.scores import INVALID_UNCERTAINTY, LARGEST_UNCERTAINTY
from cotrain_dist.method.selection import label_selected, select
from cotrain_dist.method.thresholds import adapt_cuts, count_classes, fixed_cuts
from cotrain_dist.runtime.accelerator import Runtime, start_runtime
from cotrain_dist.runtime.collectives import sum_over
from cotrain_dist.training import pool
from cotrain_dist.training.evaluate import Met, bring_together
from cotrain_dist.types import Exchange, Selection, Votes

NUM_CLASSES = 50_000
"""More than an int16 can name."""
SIZES = {0: 0, 1: 1, 7: 2, 8: 3, 9: 4, 1001: 5, 100: None}
"""Numbers of images, each with its seed; without one both models agree on all."""
WORLDS = {"1": None, "2": None, "3": None, "4": None, "4, one for A": [2], "3, one for A": [1]}
CHUNK_SIZE = 8

PAPER = SelectionConfig(threshold=0.7)
SETTINGS = {
    "agreement": SelectionConfig(rule="agreement", threshold=0.7, weights="confidence"),
    "flex": SelectionConfig(
        rule="agreement_peer", threshold=0.9, threshold_policy="flex", weights="agreement"
    ),
    "free": SelectionConfig(
        rule="confident_peer", threshold_policy="free", top_k_per_class=20, weights="agreement"
    ),
    "top": SelectionConfig(threshold=0.7, top_k_per_class=3),
}
FEW_CLASSES, SIZES_OF_SETTINGS = 5, (0, 9, 1001)


def random_votes(num_images: int, seed: int, num_classes: int = NUM_CLASSES) -> Votes:
    """Some sure, some not, some not scored; about half of the labels are equal.

    num_classes: how many of the classes are named.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (2, num_images)
    labels = torch.randint(NUM_CLASSES - num_classes, NUM_CLASSES, shape, generator=generator)
    labels[1, ::2] = labels[0, ::2]
    codes = torch.randint(LARGEST_UNCERTAINTY + 1, shape, generator=generator)
    codes[0, ::31] = codes[1, ::29] = INVALID_UNCERTAINTY
    return Votes(labels.to(torch.uint16), codes.to(torch.int16))


def packed(votes: Votes) -> torch.Tensor:
    """[2, N] int32, as votes travel."""
    halves = torch.stack([votes.labels.view(torch.int16), votes.uncertainty], dim=-1)
    return halves.view(torch.int32)[..., 0]


def _lists(exchanged: Exchange) -> list[list[int]]:
    found = []
    for part in (exchanged.a, exchanged.b):
        found += [part.sample_ids.tolist(), part.labels.tolist()]
        found.append([] if part.weights is None else part.weights.tolist())
    return found


def _pool_of(num_images: int, seed: int | None) -> tuple[Votes, torch.Tensor, torch.Tensor]:
    """Votes on a U of so many images, its ids, and the true labels of most of them."""
    votes = random_votes(num_images, seed or 0)
    if seed is None:
        votes.labels[1] = votes.labels[0]
    truth = torch.where(torch.arange(num_images) % 5 == 0, -1, votes.labels[0].long())
    return votes, _ids_of(num_images), truth


def _ids_of(num_images: int) -> torch.Tensor:
    return torch.arange(num_images) * 3 + 70_000  # more than an int16 can name


def _exchange_each(config: Config) -> list[dict[str, Any]]:
    """A body: for each size, both exchanges, and the counts of all parts."""
    rt, found = start_runtime(config), []
    for num_images, seed in SIZES.items():
        votes, pool_ids, truth = _pool_of(num_images, seed)
        found.append(_exchange(votes, pool_ids, config, PAPER, rt))
        counts = no_counts(NUM_CLASSES)
        for where, block in found[-1].pop("votes").blocks():
            counts += count_pool(block, truth[where], NUM_CLASSES, cuts=fixed_cuts(0.7))
        found[-1]["counts"] = sum_over(counts.values, rt.control).numpy()
    rt.close()
    return found


def _exchange(
    votes: Votes, pool_ids: torch.Tensor, config: Config, selection: SelectionConfig, rt: Runtime
) -> dict[str, Any]:
    num_images, size, whole = len(pool_ids), config.pool.batch_size, packed(votes)
    shards = {}
    for role in rt.roles_here:
        own = range_of(role, rt.global_rank, num_images, size, rt.placement)
        shards[role] = whole[role.index, own.start : own.stop]
    met = bring_together(shards, num_images, size, rt)
    here = pool.with_cuts(met, selection, NUM_CLASSES, rt.control)
    limits = pool.find_limits(here, selection, rt.control)
    selected = pool.select_here(here, pool_ids, selection, limits)
    plain = pool.exchange_plainly(shards, pool_ids, selection, NUM_CLASSES, rt)
    return {
        "votes": here,
        "parts": _lists(pool.hand_over(selected, pool_ids, rt.control)),
        "plain": _lists(plain),
        "own": _lists(selected),
    }


@pytest.mark.parametrize("world", slow_but(["1", "2", "3", "3, one for A"], WORLDS))
def test_parts_give_what_the_plain_exchange_gives(world: str, tmp_path: Path) -> None:
    config = _config(tmp_path, WORLDS[world])
    seen = run_ranks(_exchange_each, int(world[0]), tmp_path, config)
    for index, (num_images, seed) in enumerate(SIZES.items()):
        votes, pool_ids, truth = _pool_of(num_images, seed)
        expected = _lists(_expected(votes, pool_ids, PAPER))
        assert num_images < 1000 or min(map(len, (expected[0], expected[3]))) > 10
        assert seed is not None or expected == [[]] * 6
        counted = count_pool(votes, truth, NUM_CLASSES, cuts=fixed_cuts(0.7)).values
        for values in (of_rank[index] for of_rank in seen):
            assert values["parts"] == values["plain"] == expected
            assert values["counts"].tolist() == counted.tolist()
        # Each image is selected by one rank; nothing is handed over twice.
        assert sum(len(of_rank[index]["own"][0]) for of_rank in seen) == len(expected[0])


def _config(tmp_path: Path, ranks_a: list[int] | None) -> Config:
    return tiny_config(
        tmp_path, tmp_path, placement={"ranks_a": ranks_a}, pool={"batch_size": CHUNK_SIZE}
    )


def _expected(votes: Votes, pool_ids: torch.Tensor, selection: SelectionConfig) -> Exchange:
    """All at once, and the surest of each class image by image."""
    cuts = fixed_cuts(selection.cut)
    if selection.threshold_policy != "fixed":
        counts = count_classes(votes, NUM_CLASSES, threshold=selection.cut)
        cuts = adapt_cuts(counts, selection.threshold_policy, selection.cut)
    selected = select(votes, selection.rule, cuts=cuts)
    if selection.top_k_per_class is not None:
        masks = []
        for row, mask in enumerate((selected.a, selected.b)):
            codes, by_class = votes.uncertainty[row].tolist(), dict[int, list[int]]()
            for place in mask.nonzero().flatten().tolist():
                by_class.setdefault(int(votes.labels[row, place]), []).append(place)
            kept = torch.zeros_like(mask)
            for places in by_class.values():
                places.sort(key=lambda place: (codes[place], place))
                kept[places[: selection.top_k_per_class]] = True
            masks.append(kept)
        selected = Selection(*masks)
    return label_selected(selected, votes, pool_ids, rule=selection.rule, weights=selection.weights)


def _exchange_by_settings(config: Config) -> list[dict[str, Any]]:
    """A body: for each of the settings and sizes, both exchanges."""
    rt, found = start_runtime(config), []
    for selection in SETTINGS.values():
        for num_images in SIZES_OF_SETTINGS:
            votes = random_votes(num_images, num_images, FEW_CLASSES)
            found.append(_exchange(votes, _ids_of(num_images), config, selection, rt))
            del found[-1]["votes"]
    rt.close()
    return found


@pytest.mark.parametrize("world", slow_but(["1", "2", "3", "3, one for A"], WORLDS))
def test_parts_of_every_setting_give_what_the_plain_exchange_gives(
    world: str, tmp_path: Path
) -> None:
    seen = run_ranks(
        _exchange_by_settings, int(world[0]), tmp_path, _config(tmp_path, WORLDS[world])
    )
    index, sizes = 0, {}
    for name, selection in SETTINGS.items():
        for num_images in SIZES_OF_SETTINGS:
            votes = random_votes(num_images, num_images, FEW_CLASSES)
            expected = _lists(_expected(votes, _ids_of(num_images), selection))
            for values in (of_rank[index] for of_rank in seen):
                assert values["parts"] == values["plain"] == expected
            sizes[name] = [len(expected[0]), len(expected[3])]
            index += 1
    assert sizes["top"] == [3 * FEW_CLASSES] * 2, "images have been left out"
    assert 30 < min(sizes["free"]) <= max(sizes["free"]) <= 20 * FEW_CLASSES
    assert min(sizes["agreement"]) > 300, "so many that bits travel"


def _disagree(config: Config) -> str:
    """A body: one rank loses a row on its way; the message that all raise."""
    rt = start_runtime(config)
    unpack, num_calls = pool.unpack_exchange, [0]

    def lossy(payload: bytes, pool_ids: torch.Tensor) -> Exchange:
        num_calls[0] += 1
        whole = unpack(payload, pool_ids)
        if rt.global_rank == 1 and num_calls[0] == 1:
            return Exchange.empty()
        return whole

    pool.unpack_exchange = lossy
    votes = pool.unpack_votes(packed(random_votes(100, 1)))
    selected = _expected(votes, torch.arange(100), PAPER)
    try:
        own = selected if rt.is_lead else Exchange.empty()
        pool.hand_over(own, torch.arange(100), rt.control)
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        pool.unpack_exchange = unpack
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
    parts = (Met(2, a[2:11], b[2:11]), Met(15, a[15:], b[15:]))
    met = pool.PoolVotes(parts, fixed_cuts(0.7))
    seen = list(met.blocks())
    assert [(where.start, where.stop) for where, _ in seen] == [
        *((2, 6), (6, 10), (10, 11)),
        *((15, 19), (19, 20)),
    ]
    for where, votes in seen:
        assert torch.equal(votes.labels.long(), whole.labels[:, where].long())
        assert torch.equal(votes.uncertainty, whole.uncertainty[:, where])
