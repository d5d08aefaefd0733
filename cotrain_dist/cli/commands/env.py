"""`cotrain-dist env`: what to paste into a bug report."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.printable import printable
from cotrain_dist.version import __version__

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors", "pyarrow")
LAUNCHER_PREFIXES = (
    *("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "SLURM_", "OMP_", "MKL_", "KMP_"),
    *("GOMP_", "NCCL_", "GLOO_", "CUDA_VISIBLE_DEVICES"),
)

USAGE = "env"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    Arguments("cotrain-dist env", "Print versions, devices and launcher.", "").parse_args(arguments)
    before_torch()
    import torch
    import torch.distributed as dist

    from cotrain_dist.version import source_digest

    lines = {
        "cotrain_dist": __version__,
        "source": source_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "CPU threads": str(torch.get_num_threads()),
        "GPUs": ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
        or "none",
        "CUDA of torch": str(torch.version.cuda),
        "backends": ", ".join(
            name
            for name, found in (
                ("gloo", dist.is_gloo_available()),
                ("nccl", dist.is_nccl_available()),
            )
            if found
        ),
        **{
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(LAUNCHER_PREFIXES)
        },
    }
    for name, value in lines.items():
        print(printable(f"{name}: {value}"))
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
