"""From logits to votes: the top class and how much the model is unsure of it."""

import torch
from torch import Tensor

from cotrain_dist.types import Votes

INVALID_UNCERTAINTY = 0x7E00
"""Code of an image whose logits were not finite (float16 NaN): neither sure nor unsure."""

LARGEST_UNCERTAINTY = 0x3C00
"""Code of 1 - confidence = 1, the largest that a valid vote can have."""

MAX_CLASSES = 65_535


def encode_uncertainty(confidence: Tensor) -> Tensor:
    """Code of 1 - confidence: its float16 bits read as int16. [...] float64 0..1 -> [...] int16.

    The order of codes is the order of uncertainty. A confident model is where the cut falls, and
    there float16 of 1 - c keeps 14,337 distinct values where float16 of c keeps 1,030. NaN becomes
    INVALID_UNCERTAINTY.
    """
    # Rounding in a softmax may give a confidence above 1. Never below 0, then: with its sign bit, a
    # float16 would be a negative code, surer than all others.
    uncertainty = (1.0 - confidence.double()).clamp_min(0.0).to(torch.float16).view(torch.int16)
    return torch.where(confidence.isfinite(), uncertainty, INVALID_UNCERTAINTY).to(torch.int16)


def decode_confidence(uncertainty: Tensor) -> Tensor:
    """Confidence (0..1) from codes of valid votes, to float16's precision. int16 -> float64."""
    return 1.0 - uncertainty.view(torch.float16).double()


def threshold_code(threshold: float) -> int:
    """The code that a vote's uncertainty is compared with, for a threshold τ on confidence."""
    # Rounded in the same way as the votes: compared in full precision, a confidence that equals τ
    # could turn out sure or unsure.
    return int(encode_uncertainty(torch.tensor(threshold, dtype=torch.float64)))


def vote(logits: Tensor) -> Votes:
    """Top class and uncertainty of each row. logits: [N, C] float -> Votes of [N].

    Softmax runs in float64, so that 1 - c is exact where c is close to 1. Of equal classes the
    first wins. A row with a value that is not finite gets label 0 and INVALID_UNCERTAINTY.
    """
    # What max() gives for a row with NaN would be a label like any other: set it apart before.
    finite = logits.isfinite().all(dim=1)
    probs = torch.where(finite[:, None], logits, 0.0).double().softmax(dim=1)
    confidence, labels = probs.max(dim=1)
    confidence = torch.where(finite, confidence, torch.nan)
    labels = torch.where(finite, labels, 0)
    return Votes(labels=labels.to(torch.uint16), uncertainty=encode_uncertainty(confidence))


def to_probs(logits: Tensor) -> Tensor:
    """Softmax of each row, [N, C] float -> float32; a row that is not finite becomes uniform."""
    finite = logits.isfinite().all(dim=1, keepdim=True)
    return torch.where(finite, logits, 0.0).float().softmax(dim=1)
