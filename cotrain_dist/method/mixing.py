"""Images mixed with each other: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

One draw for a step, keyed; pairs are images of one micro-batch, in a keyed order. So with several
ranks, pairs form inside a rank's part of a step, and another number of ranks is another training,
as with dropout. timm and torchvision draw from the global generators of numpy and torch.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cotrain_dist.keys import keyed_generator, keyed_uniforms
from cotrain_dist.types import Batch


@dataclass(frozen=True)
class Mixing:
    """How the images of a step are mixed.

    kept: λ, 0..1, what an image keeps: of its values (mixup), or of its area, before the box is cut
    off at the edges (CutMix). center: the middle of the box that comes from the other image, x and
    y as fractions (0..1) of the side; None for mixup.
    """

    kept: float
    center: tuple[float, float] | None = None


def draw_mixing(mixup: float, cutmix: float, *key: int | str) -> Mixing:
    """The mixing of a step, by its key. mixup, cutmix: alpha of Beta(alpha, alpha), 0 is off.

    Where both are on, a coin decides. One of them has to be.
    """
    from scipy.special import betaincinv  # a fifth of a second that other trainings do not need

    numbers = keyed_uniforms(np.zeros(1, dtype=np.int64), 4, *key)[0]
    is_cut = numbers[0] < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if is_cut else mixup
    # The inverse of the distribution: a number of the key alone, as a generator's would not be.
    kept = float(betaincinv(alpha, alpha, numbers[1]))
    return Mixing(kept, (float(numbers[2]), float(numbers[3])) if is_cut else None)


def draw_partners(num_images: int, *key: int | str) -> Tensor:
    """Whom each image of a micro-batch is mixed with, [n] int64: a keyed permutation.

    An image may be its own partner, and then stays as it is.
    """
    return torch.randperm(num_images, generator=keyed_generator(*key))


def mix_batch(batch: Batch, mixing: Mixing, partners: Tensor, num_classes: int) -> Batch:
    """The batch with its images mixed, and distributions for targets. `unlabeled` stays.

    partners: [n] int64 on any device. What an image keeps is also the share of its target and
    weight: of the losses of both targets, times their weights, the mixed loss is the mean by λ.
    """
    partners = partners.to(batch.targets.device, non_blocking=True)
    kept = mixing.kept
    if mixing.center is None:
        views = tuple(torch.lerp(view, view[partners], 1.0 - kept) for view in batch.views)
    else:
        side = batch.views[0].shape[-1]
        left, top, right, bottom = cut_box(mixing, side)
        # Of the box that is left at the edges.
        kept = 1.0 - (right - left) * (bottom - top) / side**2
        views = tuple(view.clone() for view in batch.views)
        for mixed, view in zip(views, batch.views, strict=True):
            mixed[:, :, top:bottom, left:right] = view[partners, :, top:bottom, left:right]
    probs = batch.probs
    if probs is None:
        probs = F.one_hot(batch.targets, num_classes).float()
    if batch.weights is None:
        return replace(batch, views=views, probs=torch.lerp(probs, probs[partners], 1.0 - kept))
    own, other = kept * batch.weights, (1.0 - kept) * batch.weights[partners]
    weights = own + other
    share = torch.where(weights > 0.0, other / weights, 0.0)[:, None]
    return replace(
        batch, views=views, probs=torch.lerp(probs, probs[partners], share), weights=weights
    )


def cut_box(mixing: Mixing, side: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels of the box of an image of side x side pixels.

    A square of (1 - λ) of the area, cut off where it would leave the image.

    >>> cut_box(Mixing(0.75, (0.5, 0.0)), 8)
    (2, 0, 6, 2)
    """
    assert mixing.center is not None
    width = int(side * math.sqrt(1.0 - mixing.kept))
    x, y = (min(int(part * side), side - 1) for part in mixing.center)
    left, top = x - width // 2, y - width // 2
    return max(left, 0), max(top, 0), min(left + width, side), min(top + width, side)
