"""Consistency: what a teacher's probabilities on weak views make a student learn on strong ones.

FixMatch (arXiv 2001.07685) with one threshold, FreeMatch (arXiv 2205.07246) with thresholds that
follow the teacher. FreeMatch's means are over all images of a step, wherever they lie: each rank
sums its own as whole numbers (fixed point), so the sums are exact in any order, and every world
gets the same bits from the same probabilities.

q is a teacher's distribution on a weak view, C the number of classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cotrain_dist.types import Lesson

POINT = 2.0**32
"""One, in fixed point: int64 sums of 2^31 probabilities, and rounds none by more than 2^-33."""

TINY = 1e-12
"""Keeps the logarithm of a share of nothing finite."""


@dataclass(frozen=True)
class FreeState:
    """What FreeMatch remembers from step to step, float64.

    threshold: [], τ, the running mean of max q. probs: [C], p̃, that of q. histogram: [C], h̃, that
    of the share of images whose top class is c.
    """

    threshold: Tensor
    probs: Tensor
    histogram: Tensor

    @classmethod
    def at_start(cls, num_classes: int, device: torch.device | None = None) -> "FreeState":
        """Before any step: 1 / C everywhere."""
        even = torch.full((num_classes,), 1.0 / num_classes, dtype=torch.float64, device=device)
        return cls(even[0].clone(), even, even.clone())


def sharpen(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by a temperature; below 1 the top class gains."""
    return logits if temperature == 1.0 else logits / temperature


def sum_labels(probs: Tensor) -> Tensor:
    """Sums over images of max q, of q by class, and the images by top class: [1 + 2 C] int64.

    probs: [m, C] float. Of several ranks' the sum is that of all their images.
    """
    confidence, labels = probs.max(dim=1)
    of_class = _fixed(probs).sum(dim=0)
    num = F.one_hot(labels, probs.shape[1]).sum(dim=0)
    return torch.cat([_fixed(confidence).sum()[None], of_class, num])


def follow(state: FreeState, sums: Tensor, momentum: float) -> FreeState:
    """The state after a step: `momentum` of the old one, the rest of the step's means.

    sums: what `sum_labels` gives, over all images of the step.
    """
    num_classes = len(state.probs)
    num_images = sums[1 + num_classes :].sum().double()
    confidence, probs = _means(sums[: 1 + num_classes], num_images).split([1, num_classes])
    histogram = sums[1 + num_classes :].double() / num_images
    old, new = momentum, 1.0 - momentum
    return FreeState(
        threshold=old * state.threshold + new * confidence[0],
        probs=old * state.probs + new * probs,
        histogram=old * state.histogram + new * histogram,
    )


def free_thresholds(state: FreeState) -> Tensor:
    """τ(c) = τ p̃(c) / max p̃, [C] float64: lower for classes that the teacher seldom names."""
    return state.threshold * state.probs / state.probs.max()


def fixed_thresholds(threshold: float, num_classes: int, device: torch.device) -> Tensor:
    """One threshold for all classes, [C] float64."""
    return torch.full((num_classes,), threshold, dtype=torch.float64, device=device)


def make_lesson(probs: Tensor, thresholds: Tensor, targets: str) -> Lesson:
    """What is learned of images with teachers' probabilities [m, C] float32.

    An image is used where max q is at least the threshold of its top class. targets: hard (that
    class) or soft (q).
    """
    confidence, labels = probs.max(dim=1)
    is_used = confidence.double() >= thresholds[labels]
    match targets:
        case "hard":
            return Lesson(F.one_hot(labels, probs.shape[1]).to(probs.dtype), is_used)
        case "soft":
            return Lesson(probs, is_used)
        case _:
            raise AssertionError(f"consistency.targets {targets} is no value of the config")


def consistency_loss(logits: Tensor, lesson: Lesson) -> Tensor:
    """Sum over the used images of the cross entropy of their strong views; logits: [m, C] float.

    The others add nothing, and count in the mean that the caller makes of it.
    """
    return (F.cross_entropy(logits, lesson.probs, reduction="none") * lesson.is_used).sum()


def sum_strong(logits: Tensor, is_used: Tensor) -> tuple[Tensor, Tensor]:
    """What the used strong views say: sums of their probabilities, and whole numbers to add up.

    Returns [C] float32 with a gradient, of these images alone, and [2 C] int64: the same sums in
    fixed point, and the images by top class.
    """
    probs = torch.where(is_used[:, None], logits.float().softmax(dim=1), 0.0)
    num = F.one_hot(probs.argmax(dim=1), probs.shape[1]) * is_used[:, None]
    return probs.sum(dim=0), torch.cat([_fixed(probs.detach()).sum(dim=0), num.sum(dim=0)])


def fairness_loss(state: FreeState, own: Tensor, sums: Tensor) -> Tensor:
    """-H(SumNorm(p̃ / h̃), SumNorm(p̄ / h̄)) of a step, scalar float64; 0 where no image is used.

    p̄, h̄: the mean probabilities of the used strong views of the step, and the shares of their top
    classes. own, sums: what `sum_strong` gives; `sums` over all ranks. The value is that of all
    images; the gradient runs through `own`, so summed over ranks it is that of all images as well.
    """
    num_classes = len(own)
    num = sums[num_classes:].double()
    total = sums[:num_classes].double() / POINT
    total = total + (own.double() - own.detach().double())
    num_used = num.sum().clamp_min(1.0)
    wanted = _sum_norm(state.probs, state.histogram)
    found = _sum_norm(total / num_used, num / num_used)
    loss = (wanted * (found + TINY).log()).sum()
    return torch.where(num.sum() > 0.0, loss, 0.0)


def _sum_norm(probs: Tensor, histogram: Tensor) -> Tensor:
    """Shares `probs` / `histogram`, made to sum to 1; a class without an image gets nothing."""
    is_there = histogram > 0.0
    shares = torch.where(is_there, probs / torch.where(is_there, histogram, 1.0), 0.0)
    return shares / shares.sum().clamp_min(TINY)


def _fixed(values: Tensor) -> Tensor:
    return (values.double() * POINT).round().long()


def _means(sums: Tensor, num: Tensor) -> Tensor:
    return sums.double() / (POINT * num)
