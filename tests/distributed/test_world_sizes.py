"""From the same weights, 1, 2, 3 and 4 processes see the same U, the same R_A and R_B, the same T.

Bytes are compared, not closeness. Every rank has one thread: more would add in another order.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import build_students, run_ranks, tiny_config

from cotrain_dist.config import Config, PoolConfig
from cotrain_dist.method.metrics import measure_accuracy
from cotrain_dist.method.placement import chunks_of_rank
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.collectives import RankGroup, all_gather_rows
from cotrain_dist.training import evaluate
from cotrain_dist.training.epochs import count_votes
from cotrain_dist.training.pool import PoolVotes, exchange_selected, vote_on_pool
from cotrain_dist.types import ROLES, Exchange

# 50 images of T and 70 of U are whole numbers of these chunks in no world.
CHUNK_SIZE = 8
WORLDS = {"1": None, "2": None, "3": None, "4": None, "4, one for A": [0], "3, one for A": [1]}


def _config(pretrained: Path, root: Path, ranks_a: list[int] | None = None) -> Config:
    return tiny_config(
        root,
        Path("never-made"),
        model_a={"name": "test_efficientnet", "init_from": str(pretrained / "a")},
        model_b={"name": "test_efficientnet", "init_from": str(pretrained / "b")},
        pretrain={"num_epochs": 0},
        pool={"batch_size": CHUNK_SIZE},
        placement={"ranks_a": ranks_a},
    )


def _see(config: Config) -> dict[str, Any]:
    """What this rank knows after both passes, as bytes and bits."""
    students, images, ctx = build_students(config)
    votes = vote_on_pool(students, images, ctx)
    pool_ids = images.table.sample_ids(Split.U)
    exchanged = exchange_selected(votes, pool_ids, ctx)
    counts = count_votes(votes, images.table, pool_ids, ctx.runtime.control)
    test_ids = images.table.sample_ids(Split.T)
    with mock.patch.object(evaluate, "BLOCK_VALUES", 1):  # as many blocks as there can be
        measured = evaluate.count_split(students, test_ids, images, ctx)
        figures = evaluate.measure_split(students, Split.T, images, ctx)
    probs = evaluate.gather_probs(students, test_ids, images, ctx)
    targets = images.table.class_ids[test_ids]
    seen = {
        "votes": _all_votes(votes, ctx.runtime.control),
        "counts": counts.values.tolist(),
        "exchange": _as_bytes(exchanged),
        "logits": _gathered_logits(students, images, ctx),
        "figures": {name: _bits(asdict(accuracy)) for name, accuracy in figures.items()},
        "measured": {name: counts.values.tolist() for name, counts in measured.items()},
        "rows measured": {name: counts.num_images for name, counts in measured.items()},
        "probs": [values.numpy().tobytes() for values in probs.values()],
        "at once": {
            name: _bits(asdict(measure_accuracy(values, targets))) for name, values in probs.items()
        },
    }
    ctx.runtime.close()
    return seen


def _gathered_logits(students: list[Any], images: Any, ctx: Any) -> list[bytes]:
    pool_ids = images.table.sample_ids(Split.U)
    shards = {
        student.role: evaluate.pass_over(
            student, pool_ids, lambda logits: logits, "test", images, ctx
        )
        for student in students
    }
    template = torch.empty(0, len(images.table.class_names))
    rows = evaluate.gather_by_role(shards, template, ctx.runtime)
    return [rows[role].numpy().tobytes() for role in ROLES]


def _all_votes(votes: PoolVotes, control: RankGroup) -> list[bytes]:
    """The bytes of both models' votes on all of U, in its order, from the parts of all ranks."""
    parts = [
        torch.stack([torch.arange(part.start, part.start + len(part.a)), part.a.long(), part.b])
        for part in votes.parts
    ]
    own = torch.cat([torch.empty(3, 0, dtype=torch.int64), *parts], dim=1).T
    rows = torch.cat(all_gather_rows(own, control))
    rows = rows[rows[:, 0].argsort()]
    assert torch.equal(rows[:, 0], torch.arange(len(rows)))
    return [rows[:, role.index + 1].numpy().tobytes() for role in ROLES]


def _as_bytes(exchanged: Exchange) -> list[bytes]:
    return [
        values.numpy().tobytes()
        for part in (exchanged.a, exchanged.b)
        for values in (part.sample_ids, part.labels)
    ]


def _bits(figures: dict[str, float]) -> dict[str, str]:
    return {name: float(value).hex() for name, value in figures.items()}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(["1", "2", "3, one for A"], id="some worlds"),
        pytest.param(list(WORLDS), id="all worlds", marks=pytest.mark.slow),
    ],
)
def seen(
    request: pytest.FixtureRequest,
    pretrained: Path,
    digits_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[dict[str, Any]]]:
    """By world, what each of its ranks knows."""
    tmp_path = tmp_path_factory.mktemp("worlds")
    found = {}
    for world in request.param:
        config = _config(pretrained, digits_folder, WORLDS[world])
        found[world] = run_ranks(_see, int(world[0]), tmp_path, config)
    return found


@pytest.mark.parametrize(
    "what", ["votes", "counts", "exchange", "logits", "measured", "figures", "probs"]
)
def test_every_rank_of_every_world_sees_the_same_bits(
    what: str, seen: dict[str, list[dict[str, Any]]]
) -> None:
    expected = seen["1"][0][what]
    assert expected
    for world, ranks in seen.items():
        assert len(ranks) == int(world[0])
        for rank, values in enumerate(ranks):
            assert values[what] == expected, f"world {world}, rank {rank}"


def test_both_roles_have_something_to_teach(seen: dict[str, list[dict[str, Any]]]) -> None:
    ids_a, _, ids_b, _ = seen["1"][0]["exchange"]
    assert ids_a
    assert ids_b
    assert not set(torch.frombuffer(bytearray(ids_a), dtype=torch.int64).tolist()) & set(
        torch.frombuffer(bytearray(ids_b), dtype=torch.int64).tolist()
    )


def test_each_image_of_t_counts_once(seen: dict[str, list[dict[str, Any]]]) -> None:
    for ranks in seen.values():
        for values in ranks:
            assert values["rows measured"] == {"a": 50, "b": 50, "ensemble": 50}


def test_blocks_measure_what_all_at_once_do(seen: dict[str, list[dict[str, Any]]]) -> None:
    for ranks in seen.values():
        for values in ranks:
            assert values["figures"] == values["at once"]


def test_t_and_u_divide_evenly_in_no_world() -> None:
    for num_images in (50, 70):
        for num_ranks in (2, 3):
            shares = [
                sum(stop - start for start, stop in chunks)
                for chunks in (
                    chunks_of_rank(num_images, CHUNK_SIZE, rank, num_ranks)
                    for rank in range(num_ranks)
                )
            ]
            assert sum(shares) == num_images
            assert len(set(shares)) > 1


def test_other_chunk_bounds_would_be_noticed(
    seen: dict[str, list[dict[str, Any]]], pretrained: Path, digits_folder: Path, tmp_path: Path
) -> None:
    """That the bits above are equal is no accident: another forward pass gives others.

    Seen in the logits' bytes. Codes have 11 bits of precision, which mostly hide such differences.
    """
    config = replace(_config(pretrained, digits_folder), pool=PoolConfig(batch_size=1))
    (alone,) = run_ranks(_see, 1, tmp_path, config)
    for role in ROLES:
        usual = torch.frombuffer(bytearray(seen["1"][0]["logits"][role.index]), dtype=torch.float32)
        other = torch.frombuffer(bytearray(alone["logits"][role.index]), dtype=torch.float32)
        assert not torch.equal(usual, other)
        torch.testing.assert_close(usual, other, rtol=1e-3, atol=1e-3)
