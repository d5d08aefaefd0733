"""Collectives outside DDP, on real ranks: uneven and empty payloads, and errors on every rank."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
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
    require_equal,
    sum_over,
    together,
)

WORLDS = [1, 2, 3, 4]
DTYPES = [torch.int16, torch.uint16, torch.int64, torch.float32, torch.float64, torch.bool]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path, tmp_path / "run")


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


def _gather_everything(config: Config) -> dict[str, Any]:
    rt = start_runtime(config)
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
    rt.close()
    return gathered


@pytest.mark.parametrize("num_ranks", WORLDS)
def test_every_rank_receives_the_rows_of_all_in_order(
    num_ranks: int, config: Config, tmp_path: Path
) -> None:
    expected: dict[str, Any] = {
        "bytes": [_payload(rank) for rank in range(num_ranks)],
        "no bytes": [b""] * num_ranks,
        "json": [{"rank": rank, "text": "ü" * rank} for rank in range(num_ranks)],
        "no rows": [("torch.int16", (0, 3), b"")] * num_ranks,
    }
    for dtype in DTYPES:
        expected[str(dtype)] = [_bits(_rows(rank, dtype)) for rank in range(num_ranks)]
    expected["strided"] = [_bits(_rows(rank, torch.int64)[:, 1:]) for rank in range(num_ranks)]
    for gathered in run_ranks(_gather_everything, num_ranks, tmp_path, config):
        assert gathered == expected


def _broadcast_everything(config: Config) -> dict[str, Any]:
    rt = start_runtime(config)
    payloads = [b"of the lead rank", b"", bytes(range(256)) * 40]
    received = {
        "bytes": [
            broadcast_bytes(payload if rt.is_lead else None, rt.control) for payload in payloads
        ],
        "json": broadcast_json({"from": rt.global_rank, "list": [1, None, 2.5]}, rt.control),
        "sum": sum_over(torch.tensor([1.5, 10.0**rt.global_rank]), rt.control).tolist(),
    }
    barrier(rt.control)
    rt.close()
    return received


@pytest.mark.parametrize("num_ranks", WORLDS)
def test_the_lead_rank_is_heard_and_all_are_summed(
    num_ranks: int, config: Config, tmp_path: Path
) -> None:
    expected = {
        "bytes": [b"of the lead rank", b"", bytes(range(256)) * 40],
        "json": {"from": 0, "list": [1, None, 2.5]},
        "sum": [1.5 * num_ranks, sum(10.0**rank for rank in range(num_ranks))],
    }
    received = run_ranks(_broadcast_everything, num_ranks, tmp_path, config)
    assert received == [expected] * num_ranks


def _compare(config: Config, strangers: list[int]) -> str:
    rt = start_runtime(config)
    payload = b"odd" if rt.global_rank in strangers else b"even"
    require_equal(b"the same", "what is equal", rt.control)
    message = ""
    try:
        require_equal(payload, "the exchange", rt.control)
    except TrainingError as error:
        message = str(error)
    rt.close()
    return message


@pytest.mark.parametrize(
    ("num_ranks", "strangers", "named"),
    [
        (1, [0], None),
        (2, [1], "rank 0 and ranks [1]"),
        (3, [1, 2], "rank 0 and ranks [1, 2]"),
        (4, [2], "rank 0 and ranks [2]"),
        # Whoever differs from rank 0 is named, also where rank 0 is the odd one.
        (4, [0], "rank 0 and ranks [1, 2, 3]"),
        (4, [], None),
    ],
)
def test_unequal_bytes_raise_on_every_rank_and_name_the_odd_ones(
    num_ranks: int, strangers: list[int], named: str | None, config: Config, tmp_path: Path
) -> None:
    messages = run_ranks(_compare, num_ranks, tmp_path, config, strangers)
    if named is None:
        assert messages == [""] * num_ranks
    else:
        assert len(set(messages)) == 1
        assert f"the exchange differs between {named}:" in messages[0]


def _act_together(config: Config, failing: list[int]) -> list[tuple[str, str]]:
    rt = start_runtime(config)
    results = [_outcome(rt, failing), _outcome(rt, [])]  # the second shows that all are in step
    rt.close()
    return results


def _outcome(rt: Runtime, failing: list[int]) -> tuple[str, str]:
    def act() -> int:
        if rt.global_rank in failing:
            raise UserError("data.root", f"/{rt.global_rank}", "is no folder", "name one")
        return 10 + rt.global_rank

    try:
        return "result", str(together(act, rt.control))
    except UserError as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize(
    ("num_ranks", "failing"), [(1, [0]), (1, []), (2, [1]), (3, [0]), (4, [1, 3]), (4, [])]
)
def test_a_user_error_of_one_rank_is_raised_on_all(
    num_ranks: int, failing: list[int], config: Config, tmp_path: Path
) -> None:
    answers = run_ranks(_act_together, num_ranks, tmp_path, config, failing)
    for rank, (first, second) in enumerate(answers):
        assert second == ("result", str(10 + rank))
        if not failing:
            assert first == second
        elif rank == failing[0]:
            assert first == (
                UserError.__name__,
                f"data.root: /{rank}: is no folder; name one.",
            )
        else:
            assert first == (
                PeerUserError.__name__,
                f"rank {failing[0]}: data.root: /{failing[0]}: is no folder; name one.",
            )


def _what_the_world_is(config: Config) -> tuple[Any, ...]:
    import torch.distributed as dist

    rt = start_runtime(config)
    seen = (
        "WORLD_SIZE" in os.environ,
        dist.is_initialized(),
        rt.global_rank,
        rt.num_ranks,
        [role.value for role in rt.roles_here],
        rt.placement.ranks_a,
        torch.get_num_threads(),
    )
    rt.close()
    return seen


@pytest.mark.parametrize(
    ("num_ranks", "ranks_a"), [(1, (0,)), (2, (0,)), (3, (0, 1)), (4, (0, 1)), (1, (0,))]
)
def test_each_world_starts_clean(
    num_ranks: int, ranks_a: tuple[int, ...], config: Config, tmp_path: Path
) -> None:
    seen = run_ranks(_what_the_world_is, num_ranks, tmp_path, config)
    for rank, values in enumerate(seen):
        alone = num_ranks == 1
        roles = ["a", "b"] if alone else ["a"] if rank in ranks_a else ["b"]
        assert values == (not alone, not alone, rank, num_ranks, roles, ranks_a, 1)
