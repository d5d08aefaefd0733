"""Settings of selection, passes, placement and time limits."""

from dataclasses import dataclass
from typing import Literal

from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which images of U become R_A and R_B."""

    rule: Literal["disagreement"] = "disagreement"
    """`disagreement`: the paper's, the top classes differ and exactly one model is sure."""
    threshold: float = 0.8
    """τ, on the largest softmax probability: sure is above it, unsure below. Not in the paper."""

    def __post_init__(self) -> None:
        # Both comparisons are strict: at 1 no model is sure, at 0 none is unsure, and R is empty.
        if not 0.0 < self.threshold < 1.0:
            raise UserError(
                "selection.threshold", self.threshold, "must lie between 0 and 1", "try 0.8"
            )


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The pseudo-label pass over U."""

    batch_size: int = 128
    """Images of a forward pass without gradients. Fixed chunks, whole on one rank, keep the codes
    bit-equal for every number of ranks."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError("pool.batch_size", self.batch_size, "must be at least 1", "try 128")


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Which ranks train which model."""

    ranks_a: list[int] | None = None
    """Global ranks of role A; the others are role B's. None: halves, the odd rank to the model
    that needs more operations per image."""


LIMITS = (
    *("start_seconds", "timeout_seconds", "lost_after_seconds", "stalled_after_seconds"),
    "wait_for_peer_seconds",
)


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """Time limits between ranks."""

    start_seconds: float = 180.0
    """Limit on waiting for every rank at the start; who is missing then is named."""
    # The two roles have two limits: ranks of one role are in step, while the other role may be
    # hours behind in the same epoch.
    timeout_seconds: float = 1800.0
    """Limit of a collective inside a role group, whose ranks work in step."""
    lost_after_seconds: float = 60.0
    """A rank that gives no sign of life for so long is lost, and the others end."""
    # Below `timeout_seconds`, so that a rank is named that stands still, and not one that waits.
    stalled_after_seconds: float = 1200.0
    """All ranks end where one lives but finishes no step and no chunk for so long while it trains,
    labels or commits; waiting for others, fits of a last layer and the listing of images do not
    count."""
    wait_for_peer_seconds: float = 604800.0
    """Limit on waiting for the other role, which may train much longer; a dead one is noticed
    after `lost_after_seconds`."""

    def __post_init__(self) -> None:
        for name in LIMITS:
            if getattr(self, name) < 1.0:
                raise UserError(
                    f"distributed.{name}",
                    getattr(self, name),
                    "must be at least 1 second",
                    "leave it out for the default",
                )
        if self.stalled_after_seconds < self.lost_after_seconds:
            raise UserError(
                "distributed.stalled_after_seconds",
                self.stalled_after_seconds,
                f"must not be below distributed.lost_after_seconds, {self.lost_after_seconds:g}: "
                "a dead rank would count as a slow one",
                "leave both out for the defaults",
            )
