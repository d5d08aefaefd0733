"""The peer as a teacher: a copy of the other model, whose weights come over before each epoch."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.data.views import whole_view
from cotrain_dist.models import preprocessing_of
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_bytes, exchange_rows, require_equal
from cotrain_dist.training.student import Student, Teacher
from cotrain_dist.types import ROLES, Role


def peers_here(config: Config, rt: Runtime) -> tuple[Role, ...]:
    """The roles of whose model this rank needs a copy, to be taught by it."""
    return tuple(role.peer for role in rt.roles_here) if config.consistency.needs_peer else ()


def build_peer(student: Student, model: nn.Module, config: Config, rt: Runtime) -> Teacher:
    """The copy of a student's peer, ready to be asked.

    model: built as the peer builds its own, since a folder that it starts from may decide its
    architecture, mean and standard deviation. Its weights are written over.
    """
    own = resolve_role(config, student.role.peer.value)
    model = rt.prepare_model(model.to(memory_format=student.memory_format))
    return Teacher(
        model.eval().requires_grad_(False),
        whole_view(own.image_size),
        preprocessing_of(model, own.image_size, own.center_crop_fraction),
    )


def meet_peers(students: Sequence[Student], rt: Runtime) -> None:
    """Collective over all ranks: each student's copy of its peer becomes what the peer is now.

    That is its EMA, where it has one. Called between epochs, where both roles are in step. The
    weights cross once, from the lead rank of a role to the lead rank of the other one, which hands
    them on within its own group. All ranks then show by digest that they hold the same two models.
    """
    if not any(student.peer for student in students):
        return
    with rt.clock.measure("exchange"):
        packed = {student.role: pack_weights(student.predictor) for student in students}
        packed = _cross(students, packed, rt)
        for student in students:
            assert student.peer is not None
            unpack_weights(student.peer.model, packed[student.role.peer])
        digests = [hashlib.sha256(packed[role].numpy().data).digest() for role in ROLES]
        require_equal(b"".join(digests), "a model that teaches", rt.control)


def _cross(
    students: Sequence[Student], packed: Mapping[Role, Tensor], rt: Runtime
) -> dict[Role, Tensor]:
    """Collective over all ranks: the packed weights of both roles, from those held here."""
    leads = {role: rt.placement.ranks_of(role)[0] for role in ROLES}
    nothing = torch.empty(0, dtype=torch.uint8)
    outgoing, num_incoming = [nothing] * rt.num_ranks, [0] * rt.num_ranks
    missing = [student for student in students if student.role.peer not in packed]
    for student in missing:
        if student.is_lead:
            assert student.peer is not None
            outgoing[leads[student.role.peer]] = packed[student.role]
            # Both sides know the size: the copy is of the peer's own architecture.
            num_incoming[leads[student.role.peer]] = num_packed_bytes(student.peer.model)
    received = exchange_rows(outgoing, num_incoming, rt.control)
    both = dict(packed)
    for student in missing:
        peer = student.role.peer
        payload = received[leads[peer]].numpy().tobytes() if student.is_lead else None
        payload = broadcast_bytes(payload, student.group)
        both[peer] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    return both


def pack_weights(model: nn.Module) -> Tensor:
    """Parameters and buffers as they lie in memory, one after the other: [n] uint8 on the CPU."""
    return torch.cat(
        [
            values.detach().cpu().contiguous().view(-1).view(torch.uint8)
            for values in _tensors(model)
        ]
    )


def num_packed_bytes(model: nn.Module) -> int:
    """Length of what `pack_weights` gives."""
    return sum(values.numel() * values.element_size() for values in _tensors(model))


@torch.no_grad()
def unpack_weights(model: nn.Module, packed: Tensor) -> None:
    """Set parameters and buffers to what `pack_weights` gave of a model that is built alike."""
    sizes = [values.numel() * values.element_size() for values in _tensors(model)]
    for values, part in zip(_tensors(model), packed.split(sizes), strict=True):
        # A copy, since a part may begin where a number of 8 bytes must not.
        values.copy_(part.clone().view(values.dtype).view(values.shape))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
