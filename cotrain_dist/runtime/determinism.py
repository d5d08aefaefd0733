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


def not_exact_line(
    device_type: str, *, compiled: bool, tf32: bool, deterministic: bool
) -> str | None:
    """Why a continued run may end with other bits than an undisturbed one; None where it does not.

    device_type: `cpu` or `cuda`, as of torch.device.
    """
    on_gpu = device_type == "cuda"
    reasons = {
        "compile is true: a new torch or another GPU brings other kernels": compiled,
        "tf32 is true: another GPU rounds in another way": on_gpu and tf32,
        "deterministic is false: a GPU may add in any order": on_gpu and not deterministic,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if not found:
        return None
    return f"a continued run may end with other bits than an undisturbed one; {'; '.join(found)}"


def device_name(device: torch.device) -> str:
    """The kind of a device: `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
