"""The roll call: every rank shows that it is there and what it brings, before any group exists.

A process group that waits for a rank, or hears two stories, waits long and names nobody. Here each
rank writes a few facts to the launcher's key-value store and reads the others', within a limit.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from cotrain_dist.errors import PeerUserError, UserError
from cotrain_dist.runtime.stop import ends_after

Facts = Mapping[str, str]
"""What a rank brings, by name: equal on every rank, but for `OWN` and what is in brackets."""

OWN = frozenset({"node", "gpu", "card", "capability"})
"""Facts that may differ. `device` holds the name of the GPU in brackets, which may as well."""

MISTAKE = "mistake"
"""The fact that a rank cannot start, in the words of its UserError."""

GRACE_SECONDS = 10.0

KEY = "cotrain_dist/roll/{attempt}/{rank}"
"""A launcher's store outlives the ranks that it starts again."""


@dataclass(frozen=True)
class Roll:
    """Every rank is there, and brings the same."""

    facts: dict[int, Facts]
    store: Any
    """The key-value store, to be held until the process group stands: where the launcher has none,
    it lives in rank 0's object. None for a lone process."""


def call_the_roll(
    environ: Mapping[str, str],
    facts: Facts,
    limit_seconds: float,
    mistake: UserError | None = None,
) -> Roll:
    """Wait for every rank and compare what they bring. Collective over all ranks.

    environ: os.environ. mistake: why this rank cannot start; it is raised here, and PeerUserError
    on the ranks without one. Raises UserError on rank 0, PeerUserError on the others, where a rank
    is missing after the limit or brings other facts than rank 0; UserError where rank 0's store
    cannot be reached.
    """
    num_ranks = int(environ.get("WORLD_SIZE", "1"))
    # A lone process has no launcher, so there may be no address to ask at.
    if num_ranks == 1:
        if mistake is not None:
            raise mistake
        return Roll({0: facts}, None)
    if mistake is not None:
        facts = {**facts, MISTAKE: str(mistake)}
    own_rank = int(environ["RANK"])
    limit = timedelta(seconds=limit_seconds)
    # Over a link that dies just now, the store's own limit waits for ever.
    # Twice the limit: opening the store and waiting for the others may take it each.
    with ends_after(2 * limit_seconds + GRACE_SECONDS, _no_answer(environ, facts)):
        try:
            store = _open_store(environ, facts, limit)
            roll = _read_roll(store, own_rank, facts, num_ranks, limit)
        except dist.DistError as error:
            if mistake is not None:  # rank 0 has read of it, and ended first
                raise mistake from None
            raise PeerUserError("rank 0: has ended at the start; its log says why") from error
    complaint = _missing(roll, num_ranks, limit_seconds)
    if complaint is None:
        _raise_mistake(roll, mistake)
        complaint = _differing(roll)
    if complaint is not None:
        raise complaint if own_rank == 0 else PeerUserError(f"rank 0: {complaint}")
    return Roll(roll, store)


def _raise_mistake(roll: Mapping[int, Facts], own: UserError | None) -> None:
    """Raise this rank's mistake, or the first one of another rank, which has shown it itself."""
    if own is not None:
        raise own
    for rank, facts in roll.items():
        if MISTAKE in facts:
            raise PeerUserError(f"rank {rank} on {facts['node']}: {facts[MISTAKE]}")


def _no_answer(environ: Mapping[str, str], facts: Facts) -> str:
    return (
        f"rank {environ['RANK']} on {facts['node']}: no answer from rank 0's store at "
        f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}. Ending."
    )


def _read_roll(
    store: Any, own_rank: int, facts: Facts, num_ranks: int, limit: timedelta
) -> dict[int, Facts]:
    """The facts of every rank that came within the limit."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = [KEY.format(attempt=attempt, rank=rank) for rank in range(num_ranks)]
    store.set(keys[own_rank], json.dumps(dict(facts)))
    with contextlib.suppress(dist.DistStoreError):  # whoever is missing is named later
        store.wait(keys, limit)
    present = [rank for rank, key in enumerate(keys) if store.check([key])]
    # Only those that are there: get() would wait for the others.
    roll = {rank: json.loads(store.get(keys[rank])) for rank in present}
    store.set(f"{keys[own_rank]}/read", "")
    if own_rank == 0:  # the store ends with this process, which may find a mistake right now
        with contextlib.suppress(dist.DistStoreError):
            read = [f"{keys[rank]}/read" for rank in present]
            store.wait(read, timedelta(seconds=GRACE_SECONDS))
    return roll


def _open_store(environ: Mapping[str, str], facts: Facts, limit: timedelta) -> Any:
    """The store that torch's own start will use as well: the launcher's, or one on rank 0."""
    has_launcher = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            environ["MASTER_ADDR"],
            int(environ["MASTER_PORT"]),
            is_master=environ["RANK"] == "0" and not has_launcher,
            timeout=limit,
            # Else building the store waits for all ranks, and names none that is missing.
            wait_for_workers=False,
            # torch opens a store at this port right after, and shares the server that stands there.
            multi_tenant=True,
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise UserError(
            "MASTER_ADDR",
            f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}",
            f"rank {environ['RANK']} on {facts['node']} does not reach rank 0 there within "
            f"{limit.total_seconds():.0f} s ({str(error).splitlines()[0]})",
            "give the address of rank 0's node, and let the port pass between the nodes",
        ) from error


def _missing(roll: Mapping[int, Facts], num_ranks: int, limit_seconds: float) -> UserError | None:
    absent = [rank for rank in range(num_ranks) if rank not in roll]
    if not absent:
        return None
    here = ", ".join(f"rank {rank} on {facts['node']}" for rank, facts in roll.items())
    return UserError(
        "WORLD_SIZE",
        num_ranks,
        f"rank(s) {', '.join(map(str, absent))} did not come within {limit_seconds:.0f} s; "
        f"here are {here}",
        "start as many processes as promised on every node; the log of a missing one says why",
    )


def _differing(roll: Mapping[int, Facts]) -> UserError | None:
    first = roll[0]
    for rank, facts in roll.items():
        for name in {**first, **facts}:
            mine, other = facts.get(name, "(none)"), first.get(name, "(none)")
            # Roles may train on GPUs of two kinds, but not one on a GPU and one on the CPU.
            if name == "device" and mine.partition(" ")[0] == other.partition(" ")[0]:
                continue
            if name in OWN or mine == other:
                continue
            return UserError(
                name,
                mine,
                f"on rank {rank}, {facts['node']}, but {other} on rank 0, {first['node']}",
                "mend CUDA or leave that node out, or give --device cpu"
                if name == "device"
                else "start every rank with the same settings and versions",
            )
    return None
