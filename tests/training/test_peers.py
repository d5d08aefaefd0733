"""The peer's weights: they cross once an epoch, and every rank shows that it holds the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import build_students, run_ranks, tiny_config
from tiers import slow_but
from torch import nn

from cotrain_dist.config import Config
from cotrain_dist.errors import TrainingError
from cotrain_dist.training.peers import (
    build_peer,
    meet_peers,
    num_packed_bytes,
    pack_weights,
    peers_here,
    unpack_weights,
)
from cotrain_dist.training.setup import first_models
from cotrain_dist.types import Role

WORLDS = {
    "1": None,
    "2": None,
    "3": None,
    "4": None,
    "4, one for A": [0],
    "4, one for B": [1, 2, 3],
}

CHANNELS = torch.channels_last


class _Odd(nn.Module):
    """Parameters and buffers of several types, so that a part begins where it must not."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))
        self.register_buffer("flag", torch.tensor([value > 0]))
        self.register_buffer("count", torch.tensor(int(value)))
        self.register_buffer("nothing", torch.empty(0), persistent=False)
        self.register_buffer("grid", torch.full((2, 3, 2, 2), value).to(memory_format=CHANNELS))


def test_packed_weights_come_back_bit_for_bit() -> None:
    one, other = _Odd(2.0**33 + 1), _Odd(-1.0)
    with torch.no_grad():
        one.weight[1] = torch.nan
        one.grid.copy_(torch.randn(2, 3, 2, 2))
    packed = pack_weights(one)
    assert packed.dtype == torch.uint8
    assert len(packed) == num_packed_bytes(one) == 12 + 1 + 8 + 96
    unpack_weights(other, packed)
    assert torch.equal(pack_weights(other), packed)
    assert torch.equal(other.grid, one.grid)
    assert other.count.item() == one.count.item()
    assert other.grid.is_contiguous(memory_format=CHANNELS)


def _config(root: Path, ranks_a: list[int] | None = None, teacher: str = "peer") -> Config:
    """Two architectures, sizes and normalizations; the predictor is an EMA."""
    return tiny_config(
        root,
        Path("never-made"),
        data={"augment": "crop_flip"},
        model_b={"name": "test_efficientnet", "image_size": 48},
        train={"ema_decay": 0.9},
        consistency={"teacher": teacher},
        placement={"ranks_a": ranks_a},
    )


def _meet(config: Config, spoiled_rank: int | None = None) -> dict[str, Any]:
    """A body: each model is given weights of its own, and they meet twice."""
    students, images, ctx = build_students(config)
    rank = ctx.runtime.global_rank
    held = []
    peers = first_models(config, peers_here(config, ctx.runtime), images.table.class_names)
    for student in students:
        student.peer = build_peer(student, peers[student.role.peer], config, ctx.runtime)
    for meeting in (1.0, 2.0):
        for student in students:
            with torch.no_grad():
                for parameter in student.predictor.parameters():
                    parameter.fill_(meeting + student.role.index + 10 * (rank == spoiled_rank))
        if spoiled_rank is None:
            meet_peers(students, ctx.runtime)
        else:
            with pytest.raises(TrainingError, match="a model that teaches differs between rank 0"):
                meet_peers(students, ctx.runtime)
        for student in students:
            copy, own = student.peer.model, student.predictor
            values = {float(p.detach().unique()) for p in copy.parameters()}
            assert not copy.training
            assert not any(p.requires_grad for p in copy.parameters())
            held.append((student.role, values, pack_weights(own), pack_weights(copy)))
            assert student.peer.preprocessing.image_size == (48 if student.role is Role.A else 32)
            assert student.peer.view.side == round(1.25 * student.peer.preprocessing.image_size)
    ctx.runtime.close()
    return {"held": held, "exchange": "exchange" in ctx.runtime.clock.take()}


@pytest.mark.parametrize("world", slow_but(["1", "2", "3"], WORLDS))
def test_each_model_reaches_the_ranks_of_the_other_one(
    world: str, digits_folder: Path, tmp_path: Path
) -> None:
    config = _config(digits_folder, WORLDS[world])
    found = run_ranks(_meet, int(world[0]), tmp_path, config)
    weights: dict[tuple[int, Role], torch.Tensor] = {}
    num_copies = 0
    for seen in found:
        assert seen["exchange"]
        half = len(seen["held"]) // 2
        for number, (role, values, own, copy) in enumerate(seen["held"]):
            meeting = number // half
            assert values == {1.0 + meeting + role.peer.index}
            for holder, packed in ((role, own), (role.peer, copy)):
                expected = weights.setdefault((meeting, holder), packed)
                assert torch.equal(packed, expected)
                num_copies += 1
    assert num_copies == 4 * max(2, int(world[0]))


def test_a_rank_with_other_weights_is_named(digits_folder: Path, tmp_path: Path) -> None:
    """Rank 2 is one of three of B: what it holds of its own model is not what A was sent."""
    found = run_ranks(_meet, 4, tmp_path, _config(digits_folder, [0]), 2)
    assert len(found) == 4


def _build(config: Config) -> None:
    """A body."""
    students, _, ctx = build_students(config)
    assert peers_here(config, ctx.runtime) == ()
    meet_peers(students, ctx.runtime)
    assert "exchange" not in ctx.runtime.clock.take()
    ctx.runtime.close()


def test_without_a_peer_that_teaches_nothing_crosses(digits_folder: Path, tmp_path: Path) -> None:
    config = _config(digits_folder, teacher="ema")
    assert run_ranks(_build, 2, tmp_path, config) == [None, None]
