"""Collectives outside DDP, on real ranks: uneven and empty payloads, and errors on every rank."""

import os
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.errors import PeerUserError, TrainingError, UserError
from cotrain_dist.runtime.accelerator import Runtime, start_runtime
from cotrain_dist.runtime.collectives import (
    all_gather_bytes,
    all_gather_json,
    all_gather_rows,
    barrier,
    broadcast_bytes,
    broadcast_json,
    exchange_rows,
    require_equal,
    sum_over,
    together,
)

WORLDS = [4, 1, 3, 2]
STRANGERS = {1: [[0]], 2: [[1]], 3: [[1, 2]], 4: [[2], [0], []]}
"""Of each world: ranks that hold other bytes than the rest."""
FAILING = {1: [[0], []], 2: [[1]], 3: [[0]], 4: [[1, 3], []]}
"""Of each world: ranks that meet a mistake of the user."""
DTYPES = [torch.int16, torch.uint16, torch.int64, torch.float32, torch.float64, torch.bool]


def _payload(rank: int) -> bytes:
    """Rank 1 has nothing to say; the others differ in length."""
    return b"" if rank == 1 else bytes([rank, 0, 255]) * (rank + 1)


def _rows(rank: int, dtype: torch.dtype) -> torch.Tensor:
    """[n, 2] with n = 2, 0, 4, 5: uneven, and one rank without rows."""
    num_rows = 0 if rank == 1 else rank + 2
    values = torch.arange(2 * num_rows, dtype=torch.int64) * 1000 + rank
    return values.reshape(num_rows, 2).to(dtype)


def _bits(rows: torch.Tensor) -> tuple[Any, ...]:
    return str(rows.dtype), tuple(rows.shape), rows.contiguous().view(torch.uint8).numpy().tobytes()


def _say_everything(config: Config) -> dict[str, Any]:
    """A body: what this rank sees of its world and receives in it."""
    rt = start_runtime(config)
    seen = {
        "world": _what_the_world_is(rt),
        "gathered": _gather(rt),
        "broadcast": _broadcast(rt),
        "exchanged": [_exchange(rt, dtype) for dtype in DTYPES],
        "compared": [_compare(rt, strangers) for strangers in STRANGERS[rt.num_ranks]],
        # The second shows that all are in step after the first.
        "together": [
            (_act_together(rt, failing), _act_together(rt, [])) for failing in FAILING[rt.num_ranks]
        ],
    }
    rt.close()
    return seen


def _what_the_world_is(rt: Runtime) -> tuple[Any, ...]:
    return (
        "WORLD_SIZE" in os.environ,
        dist.is_initialized(),
        rt.global_rank,
        rt.num_ranks,
        [role.value for role in rt.roles_here],
        rt.placement.ranks_a,
        torch.get_num_threads(),
    )


def _gather(rt: Runtime) -> dict[str, Any]:
    rank, control = rt.global_rank, rt.control
    gathered: dict[str, Any] = {
        "bytes": all_gather_bytes(_payload(rank), control),
        "no bytes": all_gather_bytes(b"", control),
        "json": all_gather_json({"rank": rank, "text": "ü" * rank}, control),
        "no rows": [
            _bits(part) for part in all_gather_rows(torch.empty(0, 3, dtype=torch.int16), control)
        ],
    }
    for dtype in DTYPES:
        gathered[str(dtype)] = [
            _bits(part) for part in all_gather_rows(_rows(rank, dtype), control)
        ]
    # Columns of a larger tensor are not contiguous.
    strided = _rows(rank, torch.int64)[:, 1:]
    gathered["strided"] = [_bits(part) for part in all_gather_rows(strided, control)]
    return gathered


def _for(sender: int, receiver: int, dtype: torch.dtype) -> torch.Tensor:
    """[n]: uneven, and nothing from rank 1 for rank 0, nor from the last of four."""
    num = 0 if (sender, receiver) == (1, 0) or sender == 3 else sender + 2 * receiver + 1
    return (torch.arange(num) * 1000 + 10 * sender + receiver).to(dtype)


def _exchange(rt: Runtime, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    me, ranks = rt.global_rank, range(rt.num_ranks)
    outgoing = [_for(me, rank, dtype) for rank in ranks]
    num_incoming = [len(_for(rank, me, dtype)) for rank in ranks]
    return [_bits(part) for part in exchange_rows(outgoing, num_incoming, rt.control)]


def _broadcast(rt: Runtime) -> dict[str, Any]:
    payloads = [b"of the lead rank", b"", bytes(range(256)) * 40]
    barrier(rt.control)
    return {
        "bytes": [
            broadcast_bytes(payload if rt.is_lead else None, rt.control) for payload in payloads
        ],
        "json": broadcast_json({"from": rt.global_rank, "list": [1, None, 2.5]}, rt.control),
        "sum": sum_over(torch.tensor([1.5, 10.0**rt.global_rank]), rt.control).tolist(),
    }


def _compare(rt: Runtime, strangers: list[int]) -> str:
    require_equal(b"the same", "what is equal", rt.control)
    payload = b"other" if rt.global_rank in strangers else b"usual"
    try:
        require_equal(payload, "the exchange", rt.control)
    except TrainingError as error:
        return str(error)
    return ""


def _act_together(rt: Runtime, failing: list[int]) -> tuple[str, str]:
    def act() -> int:
        if rt.global_rank in failing:
            raise UserError("data.root", f"/{rt.global_rank}", "is no folder", "name one")
        return 10 + rt.global_rank

    try:
        return "result", str(together(act, rt.control))
    except UserError as error:
        return type(error).__name__, str(error)


@pytest.fixture(scope="module", params=WORLDS)
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each rank of a world has seen; the larger world before the smaller one."""
    tmp_path = tmp_path_factory.mktemp("collectives")
    config = tiny_config(tmp_path, tmp_path / "run")
    return run_ranks(_say_everything, request.param, tmp_path, config)


def test_each_world_starts_clean(seen: list[dict[str, Any]]) -> None:
    num_ranks = len(seen)
    ranks_a = {1: (0,), 2: (0,), 3: (0, 1), 4: (0, 1)}[num_ranks]
    for rank, values in enumerate(seen):
        alone = num_ranks == 1
        roles = ["a", "b"] if alone else ["a"] if rank in ranks_a else ["b"]
        assert values["world"] == (not alone, not alone, rank, num_ranks, roles, ranks_a, 1)


def test_every_rank_receives_the_rows_of_all_in_order(seen: list[dict[str, Any]]) -> None:
    ranks = range(len(seen))
    expected: dict[str, Any] = {
        "bytes": [_payload(rank) for rank in ranks],
        "no bytes": [b"" for _ in ranks],
        "json": [{"rank": rank, "text": "ü" * rank} for rank in ranks],
        "no rows": [("torch.int16", (0, 3), b"") for _ in ranks],
        "strided": [_bits(_rows(rank, torch.int64)[:, 1:]) for rank in ranks],
    }
    for dtype in DTYPES:
        expected[str(dtype)] = [_bits(_rows(rank, dtype)) for rank in ranks]
    for values in seen:
        assert values["gathered"] == expected


def test_each_rank_receives_what_others_have_for_it(seen: list[dict[str, Any]]) -> None:
    for rank, values in enumerate(seen):
        for dtype, parts in zip(DTYPES, values["exchanged"], strict=True):
            assert parts == [_bits(_for(other, rank, dtype)) for other in range(len(seen))]


def test_the_lead_rank_is_heard_and_all_are_summed(seen: list[dict[str, Any]]) -> None:
    expected = {
        "bytes": [b"of the lead rank", b"", bytes(range(256)) * 40],
        "json": {"from": 0, "list": [1, None, 2.5]},
        "sum": [1.5 * len(seen), sum(10.0**rank for rank in range(len(seen)))],
    }
    assert [values["broadcast"] for values in seen] == [expected] * len(seen)


def test_unequal_bytes_raise_on_every_rank_and_name_the_odd_ones(
    seen: list[dict[str, Any]],
) -> None:
    # Whoever differs from rank 0 is named, also where rank 0 is the odd one.
    named = {1: [""], 2: ["[1]"], 3: ["[1, 2]"], 4: ["[2]", "[1, 2, 3]", ""]}[len(seen)]
    for values in seen:
        for message, odd_ones in zip(values["compared"], named, strict=True):
            if odd_ones:
                assert f"the exchange differs between rank 0 and ranks {odd_ones}:" in message
            else:
                assert message == ""


def test_a_user_error_of_one_rank_is_raised_on_all(seen: list[dict[str, Any]]) -> None:
    for rank, values in enumerate(seen):
        for failing, (first, second) in zip(FAILING[len(seen)], values["together"], strict=True):
            assert second == ("result", str(10 + rank))
            text = f"data.root: /{failing[0]}: is no folder; name one." if failing else ""
            if not failing:
                assert first == second
            elif rank == failing[0]:
                assert first == (UserError.__name__, text)
            else:
                place = f"rank {failing[0]} on {socket.gethostname()}"
                assert first == (PeerUserError.__name__, f"{place}: {text}")
