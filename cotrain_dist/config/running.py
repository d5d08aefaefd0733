"""Settings of selection, passes, placement and time limits."""

from dataclasses import dataclass
from typing import Literal

from cotrain_dist.errors import UserError

DEFAULT_THRESHOLD = 0.8

MEAN_RULES = ("mean_hard", "mean_soft")
"""Rules that go by the mean of both models' probabilities."""


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which images of U become R_A and R_B."""

    rule: Literal[
        "disagreement",
        "agreement",
        "agreement_peer",
        "confident_peer",
        "mean_hard",
        "mean_soft",
    ] = "disagreement"
    """`disagreement`: the paper's, the top classes differ and exactly one model is sure.
    `agreement`: both name one class and both are sure. `agreement_peer`: both name one class and
    one is sure, or disagreement. `confident_peer`: the teacher is sure. `mean_hard`: the mean of
    both models' probabilities is sure, and labels. `mean_soft`: all of U, by that mean."""
    threshold: float | None = None
    """τ, on the largest softmax probability: sure is above it, unsure below. Not in the paper. null
    is 0.8 for the rules and policies that take one."""
    threshold_policy: Literal["fixed", "flex", "free"] = "fixed"
    """`fixed`: τ for all. `flex`: lower for classes that few images are called surely (FlexMatch).
    `free`: from a model's mean confidence on U and how often it names a class (FreeMatch)."""
    top_k_per_class: int | None = None
    """Of the images that a rule selects, each R keeps so many of each class, the surest; null keeps
    all."""
    weights: Literal["none", "confidence", "agreement"] = "none"
    """Of each pseudo-label in the loss. `confidence`: that of the model that gives it. `agreement`:
    the other model's probability for it, to the power of 4; 0 where that one is surer of another
    class."""

    temperature: Literal["off", "fitted", "auto"] = "off"
    """`fitted`: what the models say of U after Step 1 is calibrated on labels that they have not
    seen: heads by folds of L, whole models by the peer's L, or by V where both learn all labels.
    `auto`: the same, but whole models that learn all labels without a V stay as they are."""
    targets: Literal["hard", "soft"] = "hard"
    """What is learned of an image: the class, or the probabilities of all classes (`pool.keep`)."""
    sharpen: float = 1.0
    """soft: power that probabilities are raised to; above 1 sharper."""

    @property
    def cut(self) -> float | None:
        """The τ that votes are compared with, where one number is given for all of them."""
        if self.rule == "mean_soft" or self.threshold_policy == "free":
            return None
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold

    def __post_init__(self) -> None:
        # Both comparisons are strict: at 1 no model is sure, at 0 none is unsure, and R is empty.
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise UserError(
                "selection.threshold", self.threshold, "must lie between 0 and 1", "try 0.8"
            )
        if self.rule == "mean_soft" and self.threshold_policy != "fixed":
            raise UserError(
                "selection.threshold_policy",
                self.threshold_policy,
                "selection.rule mean_soft takes all of U, whatever the threshold",
                "leave it out, or take mean_hard",
            )
        if self.threshold is not None and self.cut is None:
            free = self.threshold_policy == "free"
            taken = "selection.threshold_policy free" if free else f"selection.rule {self.rule}"
            raise UserError(
                "selection.threshold", self.threshold, f"{taken} takes none", "give null"
            )
        if self.top_k_per_class is not None and self.top_k_per_class < 1:
            raise UserError(
                "selection.top_k_per_class",
                self.top_k_per_class,
                "must be at least 1",
                "null keeps all",
            )
        if self.weights == "agreement" and self.rule in MEAN_RULES:
            raise UserError(
                "selection.weights",
                self.weights,
                f"with selection.rule {self.rule} both models give the label together",
                "try confidence",
            )
        if self.sharpen <= 0.0:
            raise UserError(
                "selection.sharpen", self.sharpen, "must be above 0", "1 changes nothing"
            )


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The pseudo-label pass over U."""

    batch_size: int = 128
    """Images of a forward pass without gradients. Fixed chunks, whole on one rank, keep the codes
    bit-equal for every number of ranks."""
    keep: Literal["votes", "probabilities"] = "votes"
    """What a pass keeps of each image and the ranks exchange: 4 bytes per model, or the
    probabilities of all classes as well (2 bytes each, on every rank)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError("pool.batch_size", self.batch_size, "must be at least 1", "try 128")


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Which ranks train which model."""

    ranks_a: list[int] | None = None
    """Global ranks of role A; the others are role B's. None: halves, the odd rank to the model
    that needs more operations per image."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Commits: what a kill costs at most."""

    # When a commit is made changes no bit of what is trained: these may change on a resume.
    every_minutes: float | None = 10.0
    """Commit a model within an epoch whenever so many minutes have passed since its last commit;
    null: at epoch ends alone. Written in the background."""
    every_steps: int | None = None
    """Commit a model within an epoch after every so many of its steps."""
    keep: int = 2
    """Commits kept of each model and of both: the newest, and those to fall back to."""

    def __post_init__(self) -> None:
        if self.every_minutes is not None and self.every_minutes <= 0.0:
            raise UserError(
                "checkpoint.every_minutes",
                self.every_minutes,
                "must be above 0",
                "try 10; null commits at epoch ends alone",
            )
        if self.every_steps is not None and self.every_steps < 1:
            raise UserError(
                "checkpoint.every_steps", self.every_steps, "must be at least 1", "try 500, or null"
            )
        if self.keep < 1:
            raise UserError("checkpoint.keep", self.keep, "must be at least 1", "try 2")


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
