"""The moving average (EMA) of a student's weights: `train.ema_decay`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cotrain_dist.models import build_average


class Ema:
    """Parameters and buffers as they were over the last steps, the newest counting most.

    The n-th step that is taken keeps min(decay, 1 - n^(-2/3)) of the average: nothing in the first
    one, 78 % in the tenth, 97.8 % in the three hundredth. So a short training averages over its
    last part, where `decay` alone would keep the first weights. n goes on through both steps of the
    method.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._average = build_average(model, decay)
        self.num_updates = 0

    @property
    def module(self) -> nn.Module:
        """The average as a model, in evaluation mode."""
        module: nn.Module = self._average.module
        return module

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.num_updates += 1
        # timm counts from 1 and keeps nothing in the first step: it then leaves out one of its own.
        self._average.update(model, step=self.num_updates)

    def restart(self, model: nn.Module) -> None:
        """Begin anew, from the weights of a model."""
        self._average.set(model)
        self.num_updates = 0

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, as it is committed."""
        return dict(self.module.named_parameters()) | dict(self.module.named_buffers())

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], num_updates: int) -> None:
        """Set it to what `tensors` gave, and the number of its updates."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
        self.num_updates = num_updates
