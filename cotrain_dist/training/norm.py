"""Batch normalization in training: over all ranks of a role, or with statistics that stay.

torch's own SyncBatchNorm refuses CPUs; the one here runs on every device, over gloo and NCCL.
"""

from functools import cache
from typing import Any, Self, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(model: nn.Module) -> bool:
    """Whether what a model gives for an image depends on the images beside it in training."""
    return bool(_norms_of(model))


def synchronize_norms(model: nn.Module, handle: dist.ProcessGroup | None) -> None:
    """Let a model's batch normalization see the images of all ranks of `handle` in training.

    In place: parameters, buffers and their names stay, as does all that evaluation does. With one
    rank nothing is changed. From then on each training step is collective over `handle`.
    """
    if handle is None:
        return
    for norm in _norms_of(model):
        norm.__class__ = _synced(type(norm))  # type: ignore[arg-type]
        norm._ranks = _Ranks(handle)


def freeze_norms(model: nn.Module) -> None:
    """Let a model's batch normalization keep its statistics, and go by them in training as well.

    In place; its weights and biases are trained on. A few steps on few labels else replace half of
    what millions of images have left there, and a last layer that was fitted before fits no more.
    """
    for norm in _norms_of(model):
        norm.__class__ = _frozen(type(norm))  # type: ignore[arg-type]


def _norms_of(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


class _Ranks:
    """The ranks of a role. A copy of a model, as it is saved, holds the same ones."""

    def __init__(self, handle: dist.ProcessGroup) -> None:
        self.handle = handle

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Ranks":
        return self


@cache
def _synced(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of batch normalization, torch's or timm's, whose training step is synchronized."""
    return type(f"Synced{kind.__name__}", (_Synced, kind), {})


@cache
def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of batch normalization that is never in training mode."""
    return type(f"Frozen{kind.__name__}", (_Frozen, kind), {})


class _Frozen(nn.Module):
    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class _Synced(nn.Module):
    """The forward pass that takes the place of a batch normalization's own."""

    _ranks: _Ranks

    # A collective inside a compiled graph would be traced; outside it is what it is elsewhere.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor) -> Tensor:
        """images: [n, C, ...], n may differ between ranks. In training collective over them."""
        norm: Any = self
        if not self.training:
            whole: Tensor = super().forward(images)
            return whole
        out, mean, variance, count = _Normalize.apply(
            images, norm.weight, norm.bias, norm.eps, norm._ranks.handle
        )
        if norm.track_running_stats:
            _follow(norm, mean, variance * (count / (count - 1.0)))
        # timm's class also holds what comes after the normalization.
        for name in ("drop", "act"):
            if hasattr(norm, name):
                out = getattr(norm, name)(out)
        return cast(Tensor, out)


@torch.no_grad()
def _follow(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as torch does, by the unbiased variance."""
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _Normalize(torch.autograd.Function):
    """Normalization by the mean and variance over all ranks; one collective each way."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        handle: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        over = [dim for dim in range(images.dim()) if dim != 1]
        own_variance, own_mean = torch.var_mean(images.float(), over, correction=0)
        # In float64 the squares of means, which may be large, cancel without loss.
        own_mean, own_variance = own_mean.double(), own_variance.double()
        own_count = images.new_tensor([images.numel() // images.shape[1]], dtype=torch.float64)
        sums = torch.cat(
            [own_count, own_count * own_mean, own_count * (own_variance + own_mean**2)]
        )
        dist.all_reduce(sums, group=handle)
        count, totals, squares = sums.split([1, images.shape[1], images.shape[1]])
        mean = totals / count
        variance = (squares / count - mean**2).clamp_(min=0.0)
        scale = (variance + eps).rsqrt().float()
        ctx.save_for_backward(images, weight, mean.float(), scale, count)
        ctx.handle = handle
        ctx.mark_non_differentiable(mean, variance, count)
        out = F.batch_norm(images, mean.float(), variance.float(), weight, bias, False, 0.0, eps)
        return out, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        over = [dim for dim in range(images.dim()) if dim != 1]
        along = [-1 if dim == 1 else 1 for dim in range(images.dim())]
        normal = (images.float() - mean.view(along)) * scale.view(along)
        gradient = gradient.float()
        of_bias, of_weight = gradient.sum(over), (gradient * normal).sum(over)
        # The mean and the variance depend on the images of all ranks, and so do all ranks' losses.
        sums = torch.cat([of_bias, of_weight])
        dist.all_reduce(sums, group=ctx.handle)
        shift, tilt = (sums / count.float()).view(2, -1)
        spread = scale if weight is None else scale * weight.float()
        of_images = (gradient - shift.view(along) - normal * tilt.view(along)) * spread.view(along)
        if weight is None:
            return of_images.to(images.dtype), None, None, None, None
        # Of this rank alone: DDP sums the gradients of parameters.
        return of_images.to(images.dtype), of_weight, of_bias, None, None
