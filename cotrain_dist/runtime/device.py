"""What this process computes on, and in which precision: settled before any group exists.

The roll call then compares it over the ranks, since the choice of groups hangs on it.
"""

import glob
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cotrain_dist.config import Config
from cotrain_dist.runtime.launch import check_fallback, mixed_precision_of, wants_cpu
from cotrain_dist.runtime.progress import warn_early


@dataclass(frozen=True)
class Card:
    """A GPU, told apart by its uuid: a scheduler may show each process another one as cuda:0."""

    uuid: str
    name: str
    capability: str


@dataclass(frozen=True)
class Device:
    """What a process computes on and in."""

    card: Card | None
    """None on a CPU."""
    mixed_precision: str
    """In Accelerate's words: no, bf16 or fp16."""
    why_no_card: str = ""
    """Where a GPU was wanted in vain."""

    @property
    def on_cpu(self) -> bool:
        """Whether this process stays on the CPU."""
        return self.card is None

    def facts(self) -> dict[str, str]:
        """What the roll call compares, and what it keeps of each rank."""
        precision = "fp32" if self.mixed_precision == "no" else self.mixed_precision
        if self.card is None:
            why = f" ({self.why_no_card})" if self.why_no_card else ""
            return {"device": f"cpu{why}", "precision": precision}
        card = {"gpu": self.card.uuid, "capability": self.card.capability, "card": self.card.name}
        return {"device": f"cuda ({self.card.name})", "precision": precision, **card}


def resolve_device(config: Config, environ: Mapping[str, str]) -> Device:
    """Device and precision of this process. Raises UserError where they are not to be had."""
    if wants_cpu(config.device, environ):
        return Device(None, mixed_precision_of(config.precision, True, environ))
    found = find_card(environ)
    if isinstance(found, Card):
        return Device(found, mixed_precision_of(config.precision, False, environ))
    check_fallback(config.device, environ, found)
    # Nobody has promised this process a GPU, but whoever pays for one wants to know.
    if glob.glob("/dev/nvidia[0-9]*") and environ.get("RANK", "0") == "0":
        warn_early(f"device: training on the CPU; this machine's GPU cannot be used: {found}")
    return Device(None, mixed_precision_of(config.precision, True, environ), found)


def find_card(environ: Mapping[str, str]) -> Card | str:
    """The GPU of this process, after a first use of it; else why there is none, in one line."""
    try:
        torch.cuda.init()
        # As Accelerate chooses it. Where each process is shown one GPU, all of them have index 0.
        index = int(environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        # First, else every process would open a context on the node's first GPU.
        torch.cuda.set_device(index)
        # A card that is broken, or in another process's hands, is counted all the same.
        torch.empty(1, device="cuda")
        found = torch.cuda.get_device_properties(index)
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    return Card(str(found.uuid), found.name, f"{found.major}.{found.minor}")
