"""A student as tensors and JSON values, and back: what every commit holds of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.method.consistency import FreeState
from cotrain_dist.store.checkpoint import pack_optimizer, read_tensors, unpack_optimizer
from cotrain_dist.training.student import Student


def snapshot_of(student: Student) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """On the lead rank of a role: named tensors by file, and values of JSON.

    Without the buffers, which within an epoch differ between ranks. The tensors are the student's
    own, no copies.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    # Of the bare model: DDP and torch.compile put prefixes before the names, which would tie a
    # commit to a number of ranks.
    tensors["model"] = dict(student.model.named_parameters())
    tensors["optimizer"], rest = pack_optimizer(student.optimizer)
    state: dict[str, Any] = {"optimizer": rest, "scaler": student.scaler.state_dict()}
    if student.ema is not None:
        tensors["ema"] = student.ema.tensors()
        state["num_ema_updates"] = student.ema.num_updates
    if student.free is not None:
        tensors["consistency"] = vars(student.free)
    return tensors, state


@torch.no_grad()
def load_snapshot(student: Student, folder: Path, state: Mapping[str, Any]) -> None:
    """Load what `snapshot_of` gave, from the files of a commit that was checked."""
    parameters = read_tensors(folder, "model")
    for name, parameter in student.model.named_parameters():
        # In place, since DDP, the optimizer and a compiled step hold these very tensors.
        parameter.copy_(parameters[name])
    unpack_optimizer(student.optimizer, read_tensors(folder, "optimizer"), state["optimizer"])
    if student.ema is not None:
        student.ema.restore(read_tensors(folder, "ema"), state["num_ema_updates"])
    if student.free is not None:
        saved = read_tensors(folder, "consistency")
        student.free = FreeState(**{name: own.to(student.device) for name, own in saved.items()})
    # Empty where the commit was not made in fp16: the scaler then begins with its first factor.
    if state["scaler"]:
        student.scaler.load_state_dict(state["scaler"])
