"""The promise of `cotrain.keep_step_one`: Step 2 takes Step 1's place only where it loses nothing.

The test is the exact sign test of McNemar (Psychometrika 12, 1947): two models are told apart by
the images on which one of them alone is right. Everything is whole numbers until the last division,
so every rank and machine comes to the same answer.
"""

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

CONFIDENCE = 0.9


@dataclass(frozen=True)
class SignTest:
    """Two models on the same images."""

    num_gained: int
    """Images that the later one alone calls right."""
    num_lost: int
    """Images that the earlier one alone calls right."""
    p_value: float
    """How likely as many gained ones are, or more, where gaining and losing are equally likely."""


def sign_test(right_before: Tensor, right_after: Tensor) -> SignTest:
    """right_before, right_after: [n] bool, whether each model calls each image right; n may be 0.

    One-sided, over the images on which the two differ; of none the p-value is 1.

    >>> before, after = torch.tensor([1, 0, 0, 0, 0]).bool(), torch.tensor([1, 1, 1, 1, 0]).bool()
    >>> sign_test(before, after)
    SignTest(num_gained=3, num_lost=0, p_value=0.125)
    """
    assert right_before.dtype == right_after.dtype == torch.bool
    assert right_before.shape == right_after.shape
    num_gained = int((right_after & ~right_before).sum())
    num_lost = int((right_before & ~right_after).sum())
    num_differing = num_gained + num_lost
    ways, term = 0, comb(num_differing, num_gained)
    for num in range(num_gained, num_differing + 1):
        ways += term
        # The next binomial coefficient; from scratch each would cost as much as all of them.
        term = term * (num_differing - num) // (num + 1)
    return SignTest(num_gained, num_lost, ways / 2**num_differing)


def shows_no_loss(
    right_before: Tensor, right_after: Tensor, confidence: float = CONFIDENCE
) -> bool:
    """Whether the images show, with this confidence, that the later model loses nothing.

    The burden of proof is on the later model: it passes where its gains outnumber its losses by so
    much that chance alone would bring that in at most 1 - confidence of all cases. Two models that
    are right on the same images, or too few images to tell, do not pass.
    """
    return sign_test(right_before, right_after).p_value <= 1.0 - confidence
