"""Settings of consistency: what a model learns from unlabeled images within a step."""

from dataclasses import dataclass
from typing import Literal

from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Teachers label weak views of U within the steps of Step 2; the student learns strong ones."""

    teacher: Literal["off", "own", "ema", "peer", "both"] = "off"
    """Who labels: nobody; the student itself; its EMA; the peer as it was at the epoch's start
    (its EMA where train.ema_decay is set); or the mean of the own EMA (without one, the student)
    and the peer."""
    policy: Literal["fixed", "free"] = "fixed"
    """`fixed`: one threshold for all (FixMatch, arXiv 2001.07685). `free`: thresholds for each
    class that follow the teacher's confidence (FreeMatch, arXiv 2205.07246)."""
    threshold: float = 0.95
    """`fixed`: least probability (0..1) of a label that is learned; 0 learns all."""
    targets: Literal["hard", "soft"] = "hard"
    """What is learned: the teacher's top class, or its probabilities."""
    temperature: float = 1.0
    """What the teacher's logits are divided by: below 1 sharpens, and makes it surer."""
    weight: float = 1.0
    """Factor on the mean loss over a step's unlabeled images; that over its labeled ones has 1."""
    ratio: int = 7
    """Unlabeled images of a step for each labeled one; together they are train.batch_size."""
    fairness: float = 0.0
    """`free`: factor on the loss that keeps the classes of strong views apart; 0.01 is usual."""
    momentum: float | None = None
    """`free`: what a step keeps of the running means (0..1); null is 1 - 10 / number of steps of
    Step 2, or of each round where one starts anew."""

    @property
    def is_on(self) -> bool:
        """Whether steps of Step 2 hold unlabeled images."""
        return self.teacher != "off"

    @property
    def needs_peer(self) -> bool:
        """Whether the peer's weights have to come over before each epoch."""
        return self.teacher in ("peer", "both")

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < 1.0:
            raise UserError(
                "consistency.threshold",
                self.threshold,
                "must be at least 0 and below 1",
                "try 0.95; 0 learns every label",
            )
        for name in ("temperature", "weight"):
            if getattr(self, name) <= 0.0:
                raise UserError(
                    f"consistency.{name}", getattr(self, name), "must be above 0", "try 1"
                )
        if self.ratio < 1:
            raise UserError("consistency.ratio", self.ratio, "must be at least 1", "try 7")
        if self.fairness < 0.0:
            raise UserError(
                "consistency.fairness",
                self.fairness,
                "must not be negative",
                "0 switches it off, 0.01 is usual",
            )
        if self.momentum is not None and not 0.0 <= self.momentum < 1.0:
            raise UserError(
                "consistency.momentum",
                self.momentum,
                "must be at least 0 and below 1",
                "try 0.999, or null",
            )
        if self.policy == "free" and self.threshold != ConsistencyConfig.threshold:
            raise UserError(
                "consistency.threshold",
                self.threshold,
                "consistency.policy free takes none, its thresholds follow the teacher",
                "leave it out, or give --consistency.policy fixed",
            )
        for name in ("fairness", "momentum"):
            if getattr(self, name) and self.policy == "fixed":
                raise UserError(
                    f"consistency.{name}",
                    getattr(self, name),
                    "belongs to consistency.policy free",
                    "leave it out, or give --consistency.policy free",
                )
