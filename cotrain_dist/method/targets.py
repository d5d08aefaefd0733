"""Targets that are distributions: what they are made of before a model learns them."""

from torch import Tensor

LEAST_PROB = 1e-12


def log_probs(probs: Tensor) -> Tensor:
    """Logarithms of probabilities, [n, C]; finite also where a class has none."""
    return probs.clamp_min(LEAST_PROB).log()


def sharpen(probs: Tensor, power: float) -> Tensor:
    """Probabilities [n, C] raised to a power and scaled back to a sum of 1.

    Above 1 sharper, 1 as they are (the T of MixMatch, arXiv 1905.02249, is 1 / power).
    """
    if power == 1.0:
        return probs
    # In logarithms: a power of a small probability would underflow.
    return (log_probs(probs) * power).softmax(dim=1)
