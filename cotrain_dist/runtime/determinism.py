"""Bits that do not depend on which kernel or which order a GPU happens to choose."""

import os

import torch

ENVIRON = {
    # Some products of matrices otherwise share workspaces between streams.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # A ring adds the ranks in one order; NVLink's own sums, and a choice by measured speed, do not.
    "NCCL_ALGO": "Ring",
}
"""Read by libraries when they start; what the user has set stays."""

_set_here: set[str] = set()


def set_determinism(wanted: bool) -> None:
    """Ask torch and the libraries below it for the same bits in every run, or take that back.

    Call before the first work on a GPU. In both directions: a notebook may have trained with
    another setting before. An operation that knows no such way then raises RuntimeError.
    """
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    if wanted:
        torch.backends.cudnn.benchmark = False  # it would choose by measured speed
        _set_here.update(name for name in ENVIRON if name not in os.environ)
        for name in _set_here:
            os.environ[name] = ENVIRON[name]
    else:
        for name in _set_here:
            os.environ.pop(name, None)
        _set_here.clear()


def describe_determinism() -> dict[str, object]:
    """What holds now, for environment.json."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **{name: os.environ.get(name) for name in ENVIRON},
    }


def device_name(device: torch.device) -> str:
    """The kind of a device: `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
