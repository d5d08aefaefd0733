"""What a training step minimizes: one function for each loss.

A loss takes the logits of each view of a batch, [n, C] float, and the batch; it returns the sum
over images, a scalar. The caller divides by the images of the whole step, so that every image
weighs the same on any number of ranks.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from cotrain_dist.types import Batch


def batch_loss(
    loss: str, logits: Sequence[Tensor], batch: Batch, *, label_smoothing: float
) -> Tensor:
    """The loss that `train.loss` names."""
    match loss:
        case "cross_entropy":
            # Further views are for losses that compare them.
            return cross_entropy(logits[0], batch, label_smoothing=label_smoothing)
        case _:
            raise AssertionError(f"train.loss {loss} is no value of the config")


def cross_entropy(logits: Tensor, batch: Batch, *, label_smoothing: float) -> Tensor:
    """Cross entropy with the targets, smoothed by `label_smoothing` (0..1), times the weights.

    Targets are `batch.probs` where these are given, else the hard ones.
    """
    targets = batch.targets if batch.probs is None else batch.probs
    # Not weights of one: the kernel adds up by itself, and another way to add would round
    # otherwise.
    if batch.weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
    per_image = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    return (per_image * batch.weights).sum()
