"""The same training on any number of ranks: `train.exact_elastic`.

Each step is cut into fixed micro-shards, whatever the number of ranks. Each shard has a forward and
a backward pass, statistics of normalization and a key of dropout of its own. What is added up over
shards are whole numbers (fixed point): such a sum is exact, so no order, no number of ranks and no
algorithm of a collective changes a bit of it.
"""

import torch
from torch import Tensor, nn

from cotrain_dist.runtime.collectives import RankGroup, sum_over

GRADIENT_POINT = 2.0**44
"""One, in the fixed point of gradients: entries below 524,288 / shards, rounded by 2^-45."""

STATISTIC_POINT = 2.0**32
"""One, in the fixed point of statistics: moves below 2^31 / shards, rounded by 2^-33."""

LOSS_POINT = 2.0**20
"""What losses are rounded to: float64 adds such numbers without rounding, up to 2^33."""


def round_loss(loss: Tensor) -> Tensor:
    """A loss as float64, rounded so that sums of such values do not depend on their order."""
    return (loss.double() * LOSS_POINT).round() / LOSS_POINT


class ExactSums:
    """Gradients and statistics of one step of a model, summed over its micro-shards."""

    def __init__(self, model: nn.Module, num_shards: int, group: RankGroup) -> None:
        """num_shards: of a step, over all ranks. group: the ranks of the model, for its device."""
        self._num_shards, self._group = num_shards, group
        self._parameters = [own for own in model.parameters() if own.requires_grad and own.numel()]
        buffers = [own for own in model.buffers() if own.is_floating_point() and own.numel()]
        self._buffers = buffers
        self._counters = [own for own in model.buffers() if not own.is_floating_point()]
        # How many of the shards had an entry that is not finite, or too large, comes last.
        sizes = [own.numel() for own in (*self._parameters, *self._buffers)]
        self._sizes = [*sizes, 1]
        self._sums: Tensor | None = None
        self._start: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Before the first shard of a step that this rank takes."""
        device = self._parameters[0].device
        self._sums = torch.zeros(sum(self._sizes), dtype=torch.int64, device=device)
        self._start = [own.clone() for own in (*self._buffers, *self._counters)]

    @torch.no_grad()
    def enter_shard(self) -> None:
        """Every shard meets the statistics as they were before the step."""
        buffers = (*self._buffers, *self._counters)
        for buffer, start in zip(buffers, self._start, strict=True):
            buffer.copy_(start)

    @torch.no_grad()
    def leave_shard(self) -> None:
        """Take the gradients of a shard, and how far it has moved the statistics."""
        assert self._sums is not None
        *sums, num_bad = self._sums.split(self._sizes)
        gradients = [own.grad for own in self._parameters]
        moves = [own - start for own, start in zip(self._buffers, self._start, strict=False)]
        points = [GRADIENT_POINT] * len(gradients) + [STATISTIC_POINT] * len(moves)
        for total, values, point in zip(sums, (*gradients, *moves), points, strict=True):
            if values is None:  # a parameter that this step does not use
                continue
            scaled = values.float().flatten() * point
            # NaN is not below it either.
            num_bad += ~(scaled.abs().amax() < 2.0**63 / self._num_shards)
            total += scaled.round().long()
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def finish(self) -> None:
        """Collective over the role group: set gradients and statistics to those of all shards.

        Gradients are sums, as each loss was divided by the images of the step; statistics have
        moved by the mean of what the shards have moved them by. NaN where a shard had none.
        """
        assert self._sums is not None
        *sums, num_bad = sum_over(self._sums, self._group).split(self._sizes)
        # Not asked for: reading it would wait for the device.
        unit = torch.where(num_bad > 0, torch.nan, 1.0)
        num_gradients = len(self._parameters)
        for parameter, total in zip(self._parameters, sums, strict=False):
            values = total.float() * (unit / GRADIENT_POINT)
            parameter.grad = values.view_as(parameter).to(parameter.dtype)
        for buffer, start, total in zip(
            self._buffers, self._start, sums[num_gradients:], strict=False
        ):
            move = total.float() * (unit / (STATISTIC_POINT * self._num_shards))
            buffer.copy_(start + move.view_as(start))
        self._sums = None
