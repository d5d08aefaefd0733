"""Who is missing at the start, and who brings something else, is named."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from ranks import run_ranks

from cotrain_dist.errors import EXIT_PEER_LOST, PeerUserError, UserError
from cotrain_dist.runtime import roll_call

LIMIT_SECONDS = 3.0


def _call(facts_by_rank: list[dict[str, str] | None], limit_seconds: float) -> tuple[str, str]:
    """A body: a rank without facts stays away; kind and text of the error otherwise."""
    from cotrain_dist.runtime.roll_call import call_the_roll

    facts = facts_by_rank[int(os.environ["RANK"])]
    if facts is None:
        return "", "away"
    try:
        roll = call_the_roll(os.environ, facts, limit_seconds)
    except UserError as error:
        return type(error).__name__, str(error)
    assert roll.store is not None
    assert roll.facts == {rank: facts for rank, facts in enumerate(facts_by_rank) if facts}
    time.sleep(1.0 if os.environ["RANK"] == "0" else 0.0)  # the store lives in rank 0's object
    return "", "all here"


def facts(**changes: str) -> dict[str, str]:
    return {"node": "n0", "torch": "2", "seed": "0"} | changes


def test_everyone_is_there(tmp_path: Path) -> None:
    everyone: list[Any] = [facts(), facts(node="n1"), facts(node="n2")]
    assert run_ranks(_call, 3, tmp_path, everyone, LIMIT_SECONDS) == [("", "all here")] * 3


def test_missing_ranks_are_named_with_those_that_came(tmp_path: Path) -> None:
    some: list[Any] = [facts(), None, facts(node="n1"), None]
    outcomes = run_ranks(_call, 4, tmp_path, some, LIMIT_SECONDS)
    text = (
        "WORLD_SIZE: 4: rank(s) 1, 3 did not come within 3 s; here are rank 0 on n0, rank 2 on n1; "
        "start as many processes as promised on every node"
    )
    assert outcomes[0][0] == "UserError"
    assert outcomes[0][1].startswith(text)
    assert outcomes[2][0] == "PeerUserError"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": "1"}, "seed: 1: on rank 2, n1, but 0 on rank 0, n0; start every rank with the"),
        ({"torch": "3"}, "torch: 3: on rank 2, n1, but 2 on rank 0, n0"),
        ({"new": "x"}, "new: x: on rank 2, n1, but (none) on rank 0, n0"),
    ],
)
def test_other_settings_or_versions_are_named(
    changes: dict[str, str], text: str, tmp_path: Path
) -> None:
    told: list[Any] = [facts(), facts(), facts(node="n1", **changes)]
    outcomes = run_ranks(_call, 3, tmp_path, told, LIMIT_SECONDS)
    assert [kind for kind, _ in outcomes] == ["UserError", "PeerUserError", "PeerUserError"]
    assert outcomes[0][1].startswith(text)


def _call_alone(address: str) -> str:
    """A body: a rank whose rank 0 is not there."""
    from cotrain_dist.runtime.roll_call import call_the_roll

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    os.environ |= environ
    try:
        call_the_roll(environ, facts(node="n1"), 1.0)
    except UserError as error:
        return str(error)
    return ""


def test_a_rank_that_reaches_nobody_says_so(tmp_path: Path) -> None:
    (text,) = run_ranks(_call_alone, 1, tmp_path, "127.0.0.1")
    assert text.startswith("MASTER_ADDR: 127.0.0.1:")
    assert "rank 1 on n1 does not reach rank 0 there within 1 s (" in text
    assert "\n" not in text


HANGING = """
import time
from unittest import mock
from cotrain_dist.runtime import roll_call
environ = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
with (
    mock.patch.object(roll_call, "GRACE_SECONDS", 0.1),
    mock.patch.object(roll_call, "_open_store", lambda *arguments: time.sleep(60)),
):
    roll_call.call_the_roll(environ, {"node": "n1"}, 0.1)
"""


def test_a_store_that_never_answers_ends_the_rank() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == EXIT_PEER_LOST
    assert "rank 1 on n1: no answer from rank 0's store at h:1. Ending." in done.stderr


class _StoreOfAnEndedRank:
    """Rank 0 has ended between two calls, and the store with it."""

    def set(self, key: str, value: str) -> None:
        raise dist.DistNetworkError("Connection reset by peer")


def test_a_rank_0_that_ended_is_not_this_rank_s_mistake() -> None:
    environ = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    with (
        mock.patch.object(roll_call, "_open_store", return_value=_StoreOfAnEndedRank()),
        pytest.raises(PeerUserError, match="rank 0: has ended at the start; its log says why"),
    ):
        roll_call.call_the_roll(environ, facts(node="n1"), 1.0)
