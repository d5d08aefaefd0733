"""Losses that are not finite: noticed at their step (`train.on_nan`).

`stop`: the rank that meets one ends its training and names the images; the heartbeat ends all other
ranks, of both roles, within seconds. `skip_step`: the ranks of a role leave the step out. They need
no collective to agree: a gradient that is not finite on one rank is so on all, once it is summed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from cotrain_dist.errors import TrainingError
from cotrain_dist.method.consistency import FreeState
from cotrain_dist.method.steps import EpochPlan
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.training.student import Student
from cotrain_dist.types import TrainingSet

MOST_SKIPPED_IN_ROW = 10
"""Steps that may be left out one after another; one more ends the training."""

STEPS_BETWEEN_CHECKS = 8
"""On a GPU: to read a loss after each step would wait for all work before it."""

NUM_SHOWN = 8
"""Images that a message names."""


class LossGuard:
    """Watches the losses of an epoch's steps, as one rank sees them."""

    def __init__(
        self,
        student: Student,
        learned: TrainingSet,
        plan: EpochPlan,
        phase: str,
        epoch: int,
        reporter: Reporter,
    ) -> None:
        self._student, self._learned, self._plan = student, learned, plan
        self._phase, self._epoch, self._reporter = phase, epoch, reporter
        # The scaler of fp16 leaves such steps out by itself, and lowers its scale.
        self._stops = not skips(student) and not student.scaler.is_enabled()
        self._first = torch.full((), -1, device=student.device)
        self._loss = torch.zeros((), dtype=torch.float64, device=student.device)
        self._num_in_row = 0

    def restore(self, counts: Mapping[str, Tensor]) -> None:
        """Go on after what `counts` gave."""
        self._num_in_row = int(counts["num_skipped_in_row"])

    def counts(self) -> dict[str, Tensor]:
        """As scalars by name, for a commit within an epoch."""
        return {"num_skipped_in_row": torch.tensor(self._num_in_row)}

    def note(self, step: int, loss: Tensor, num_skipped: int) -> None:
        """After a step. loss: [] float64, of this rank's images; num_skipped: 1 where left out.

        Raises TrainingError for a loss that is not finite, on a GPU up to 8 steps later, or for too
        many steps in a row that were left out.
        """
        if skips(self._student):
            self._count(step, num_skipped)
        if not self._stops:
            return
        is_first = ~loss.isfinite() & (self._first < 0)
        self._first = torch.where(is_first, step, self._first)
        self._loss = torch.where(is_first, loss, self._loss)
        if loss.device.type == "cpu" or (step + 1) % STEPS_BETWEEN_CHECKS == 0:
            self.check()

    def check(self) -> None:
        """Raise TrainingError where a loss so far was not finite."""
        step = int(self._first)
        if step >= 0:
            raise TrainingError(
                f"{self._place(step)}: the loss of model {self._student.role.name} is "
                f"{float(self._loss)}, on {self._images(step)}; {self._way_out()}"
            )

    def check_before_commit(self) -> None:
        """Raise TrainingError where losses or weights are not finite: nothing of it is kept."""
        self.check()
        if not has_finite_weights(self._student.model):
            raise TrainingError(
                f"{self._phase} epoch {self._epoch}: weights of model {self._student.role.name} "
                f"are no longer finite; {self._way_out()}"
            )

    def _count(self, step: int, num_skipped: int) -> None:
        self._num_in_row = self._num_in_row + 1 if num_skipped else 0
        if not num_skipped:
            return
        name = self._student.role.name
        self._reporter.warn(
            f"{self._place(step)}: left out by {name}, its loss or gradient is not finite; this "
            f"rank had {self._images(step)}"
        )
        if self._num_in_row > MOST_SKIPPED_IN_ROW:
            raise TrainingError(
                f"{self._place(step)}: model {name} has left out {self._num_in_row} steps in a "
                f"row (train.on_nan skip_step), the last with {self._images(step)}; "
                f"{self._way_out()}"
            )

    def _place(self, step: int) -> str:
        return f"{self._phase} epoch {self._epoch}, step {step + 1} of {len(self._plan.steps)}"

    def _images(self, step: int) -> str:
        """The images that this rank had in a step, or some of them."""
        rows = torch.cat(
            [
                rows
                for shard in self._student.shards
                for rows in self._plan.micro_batches(step, shard)
            ]
        )
        ids = self._learned.sample_ids[rows].tolist()
        more = f" and {len(ids) - NUM_SHOWN} more" if len(ids) > NUM_SHOWN else ""
        return f"images {', '.join(map(str, ids[:NUM_SHOWN]))}{more} (rows of splits.parquet)"

    def _way_out(self) -> str:
        skip = "" if skips(self._student) else ", or give train.on_nan skip_step"
        return (
            f"lower {self._phase}.learning_rate or set train.clip_grad_norm{skip}. What was "
            "committed before stays."
        )


def skips(student: Student) -> bool:
    """Whether this student leaves out steps whose gradient is not finite."""
    return student.config.train.on_nan == "skip_step" and not student.scaler.is_enabled()


def spread_to_gradient(loss: Tensor) -> Tensor:
    """The loss, and where it is not finite one whose whole gradient is not: ranks agree by that."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


def has_finite_gradient(model: nn.Module) -> bool:
    """Whether a step may be taken; the same on all ranks of a role, whose gradients are summed."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(get_total_norm(gradients, math.inf).isfinite())


def has_finite_weights(model: nn.Module) -> bool:
    """Whether all weights are finite."""
    # The largest entry of all: one by one they would be waited for on a GPU.
    return bool(get_total_norm(model.parameters(), math.inf).isfinite())


@dataclass(frozen=True)
class BeforeStep:
    """What the forward pass of a step changes: statistics of normalization, running means."""

    buffers: tuple[Tensor, ...]
    free: FreeState | None

    @classmethod
    def of(cls, student: Student) -> "BeforeStep":
        """As it is now."""
        return cls(tuple(own.clone() for own in student.model.buffers()), student.free)

    @torch.no_grad()
    def put_back(self, student: Student) -> None:
        """Undo what a step that is left out has changed; its gradient is forgotten."""
        for own, value in zip(student.model.buffers(), self.buffers, strict=True):
            own.copy_(value)
        student.free = self.free
        student.optimizer.zero_grad(set_to_none=True)
