"""Every collective outside DDP: packed, padded, trimmed, over a named group with a time limit.

What travels is bytes, never objects: nothing per rank receives is unpickled.
"""

import hashlib
import json
import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from cotrain_dist.errors import PeerUserError, TrainingError, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class RankGroup:
    """Ranks that communicate. `handle` is None for a group of one, which needs no communication."""

    name: str
    ranks: tuple[int, ...]
    index: int
    """Index of this process in `ranks`."""
    handle: dist.ProcessGroup | None = None

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.ranks)


def barrier(group: RankGroup) -> None:
    """Collective over `group`: wait for all its ranks."""
    if group.handle is not None:
        dist.barrier(group=group.handle)


def all_gather_bytes(payload: bytes, group: RankGroup) -> list[bytes]:
    """Collective over `group` (a CPU group): the bytes of every rank, in the order of its ranks.

    Lengths may differ: they are exchanged first, the payloads padded to the longest and trimmed.
    """
    if group.handle is None:
        return [payload]
    # torch's all_gather wants one size from all ranks.
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in group.ranks]
    dist.all_gather(lengths, torch.tensor([len(payload)]), group=group.handle)
    longest = max(int(length) for length in lengths)
    # All ranks see the same lengths, so all of them leave here, or none.
    if longest == 0:
        return [b""] * group.size
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(payload)] = _to_tensor(payload)
    received = [torch.empty_like(padded) for _ in group.ranks]
    dist.all_gather(received, padded, group=group.handle)
    return [
        part[: int(length)].numpy().tobytes()
        for part, length in zip(received, lengths, strict=True)
    ]


def all_gather_rows(rows: Tensor, group: RankGroup) -> list[Tensor]:
    """Collective over `group`: each rank's rows, [n_rank, ...] on the CPU; n may differ, or be 0.

    Travels as a uint8 view, since gloo knows no 16-bit integers.
    """
    packed = rows.contiguous().view(torch.uint8).numpy().tobytes() if rows.numel() else b""
    return [
        _to_tensor(part).view(rows.dtype).reshape(-1, *rows.shape[1:])
        if part
        else rows.new_empty(0, *rows.shape[1:])
        for part in all_gather_bytes(packed, group)
    ]


def all_gather_json(value: Any, group: RankGroup) -> list[Any]:
    """Collective over `group`: each rank's value, as JSON."""
    return [json.loads(part) for part in all_gather_bytes(json.dumps(value).encode(), group)]


def exchange_rows(
    outgoing: Sequence[Tensor], num_incoming: Sequence[int], group: RankGroup
) -> list[Tensor]:
    """Collective over `group` (a CPU group): the rows that each of its ranks has for this one.

    outgoing: [n, ...] for each rank, in the order of the ranks, all of one dtype and width;
    num_incoming: how many rows each rank will send. Both sides know these numbers, so that nothing
    travels but the rows. What a rank has for itself stays where it is.
    """
    own = outgoing[group.index]
    if group.handle is None:
        return [own]
    others = [rank for rank in range(group.size) if rank != group.index]
    sent = [outgoing[rank] for rank in others if len(outgoing[rank])]
    # A view where one rank alone receives: with two ranks nothing is copied here.
    packed = sent[0].contiguous() if len(sent) == 1 else torch.cat([own[:0], *sent])
    sizes_out, sizes_in = [0] * group.size, [0] * group.size
    for rank in others:
        sizes_out[rank], sizes_in[rank] = len(outgoing[rank]), num_incoming[rank]
    received = own.new_empty(sum(sizes_in), *own.shape[1:])
    num_bytes = own.element_size() * math.prod(own.shape[1:])
    # As bytes, since gloo knows no 16-bit integers.
    dist.all_to_all_single(
        received.view(-1).view(torch.uint8),
        packed.view(-1).view(torch.uint8),
        [size * num_bytes for size in sizes_in],
        [size * num_bytes for size in sizes_out],
        group=group.handle,
    )
    parts = list(received.split(sizes_in))
    parts[group.index] = own
    return parts


def broadcast_bytes(payload: bytes | None, group: RankGroup) -> bytes:
    """Collective over `group`: the bytes of its first rank; the others pass None."""
    if group.handle is None:
        return payload or b""
    length = torch.tensor([len(payload or b"")])
    # `src` is a global rank, also in a group that does not hold rank 0.
    dist.broadcast(length, src=group.ranks[0], group=group.handle)
    if not int(length):
        return b""
    buffer = _to_tensor(payload) if payload else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(buffer, src=group.ranks[0], group=group.handle)
    return buffer.numpy().tobytes()


def broadcast_json(value: Any, group: RankGroup) -> Any:
    """Collective over `group`: its first rank's value, as JSON."""
    payload = json.dumps(value).encode() if group.index == 0 else None
    return json.loads(broadcast_bytes(payload, group))


def sum_over(values: Tensor, group: RankGroup) -> Tensor:
    """Collective over `group`: the sum of each rank's values, in place."""
    if group.handle is not None:
        dist.all_reduce(values, group=group.handle)
    return values


def max_over(values: Tensor, group: RankGroup) -> Tensor:
    """Collective over `group`: the largest of each rank's values, in place."""
    if group.handle is not None:
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=group.handle)
    return values


def require_equal(payload: bytes, what: str, group: RankGroup) -> None:
    """Collective over `group`: raise TrainingError on every rank unless all hold the same bytes.

    Only a digest travels.
    """
    # Gathered and not compared with a broadcast one: all ranks have to raise, the equal ones too.
    digests = all_gather_bytes(hashlib.sha256(payload).digest(), group)
    strangers = [
        rank for rank, digest in zip(group.ranks, digests, strict=True) if digest != digests[0]
    ]
    if strangers:
        raise TrainingError(
            f"{what} differs between rank {group.ranks[0]} and ranks {strangers}: start every rank "
            "with the same settings, data and versions"
        )


def _to_tensor(payload: bytes) -> Tensor:
    if not payload:
        return torch.empty(0, dtype=torch.uint8)  # frombuffer refuses an empty buffer
    # A copy: frombuffer shares its memory, and that of `bytes` must not be written to.
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8)


def together(action: Callable[[], T], group: RankGroup) -> T:
    """Collective over `group`: run `action` on each rank; a UserError of one is raised on all.

    Without it the other ranks would wait in their next collective for the one that ended.
    """
    own: UserError | None = None
    result: T | None = None
    try:
        result = action()
    # Other errors end this rank, and the heartbeat tells the others why.
    except UserError as error:
        own = error
    text = None if own is None else f"on {socket.gethostname()}: {own}"
    texts = all_gather_json(text, group)
    # The first one counts: whatever log a user reads, it tells of the same mistake.
    failed = [index for index, text in enumerate(texts) if text is not None]
    if not failed:
        return cast(T, result)
    if own is not None and failed[0] == group.index:
        raise own
    first = failed[0]
    raise PeerUserError(f"rank {group.ranks[first]} {texts[first]}")
