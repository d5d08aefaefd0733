"""What proves that two runs are one: digests of weights and selections (`verify`)."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import all_gather_json
from cotrain_dist.training.packing import exchange_to_tensors
from cotrain_dist.training.student import Student
from cotrain_dist.types import Exchange


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in hex; the order of names does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        # Weights may lie in channels-last layout: what counts are the values in their plain order.
        own = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {own.dtype} {tuple(own.shape)};".encode())
        digest.update(own.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digests_of(students: Sequence[Student], exchanged: Exchange, rt: Runtime) -> dict[str, str]:
    """Collective over all ranks: digests by `a`, `b` (as they are exported) and `exchange`."""
    own = {
        student.role.value: tensors_digest(student.exported.state_dict())
        for student in students
        if student.is_lead
    }
    found: dict[str, str] = {}
    for part in all_gather_json(own, rt.control):
        found |= part
    # All ranks hold the same exchange, as `hand_over` has made sure of.
    return dict(sorted(found.items())) | {
        "exchange": tensors_digest(exchange_to_tensors(exchanged))
    }
