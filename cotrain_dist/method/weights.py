"""How much an image counts: a pseudo-label by what the models say of it, R as a whole, rows of L.

The weight of a pseudo-label travels as the code of a vote does, so it is one of the values that
such a code can have.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from cotrain_dist.method.scores import (
    LARGEST_UNCERTAINTY,
    decode_confidence,
    encode_uncertainty,
)
from cotrain_dist.types import TrainingSet, Votes


def weight_codes(votes: Votes, row: int, other: int, weights: str) -> Tensor:
    """The weights of the labels that a row of votes gives, as `selection.weights` says, [N] int16.

    other: the row of the model that does not label. Codes of 1 - weight; a weight of 0 has the code
    LARGEST_UNCERTAINTY.
    """
    match weights:
        case "confidence":
            return votes.uncertainty[row]
        case "agreement":
            return agreement_codes(votes, row, other)
        case _:
            raise AssertionError(f"selection.weights {weights} is no value of the config")


def agreement_codes(votes: Votes, row: int, other: int) -> Tensor:
    """Weights by what the other model says of a label, [N] int16: codes of 1 - p**4.

    Dynamic mutual training (arXiv 2004.08514): p is the other model's probability for the label.
    The weight is 0 where that model calls the image by another name and is surer of it than the
    teacher is of its own. A vote tells the top probability alone: where both name one class, that
    is p; where they differ, p is taken as the most that it can be, which is the other model's top
    probability or what that leaves over, the smaller of both. An image that the other model could
    not score has a weight of 0.
    """
    names_it = votes.labels[row] == votes.labels[other]
    top = decode_confidence(votes.uncertainty[other])
    probs = torch.where(names_it, top, torch.minimum(top, 1.0 - top))
    is_contradicted = ~names_it & (votes.uncertainty[other] < votes.uncertainty[row])
    is_scored = votes.uncertainty[other] <= LARGEST_UNCERTAINTY
    squares = torch.where(is_scored & ~is_contradicted, probs, 0.0).square()
    # Twice squared: a library's power need not give the same bits on every machine.
    return encode_uncertainty(squares.square())


def decode_weights(codes: Tensor) -> Tensor:
    """int16 codes -> float32 weights, exactly: a code is one of 24 bits at most."""
    return decode_confidence(codes).float()


def encode_weights(weights: Tensor) -> Tensor:
    """Back from `decode_weights`."""
    return encode_uncertainty(weights.double())


def ramped_weight(epoch: int, weight: float, num_ramp_epochs: int) -> float:
    """The weight of R in an epoch of Step 2 (counted from 1), which rises to its full value.

    >>> [ramped_weight(epoch, 0.9, 2) for epoch in (1, 2, 3, 4)]
    [0.3, 0.6, 0.9, 0.9]
    """
    return weight * min(epoch, num_ramp_epochs + 1) / (num_ramp_epochs + 1)


def weigh_labeled(
    learned: TrainingSet, *, least_fraction: float, class_balanced: bool
) -> TrainingSet:
    """The rows for a fit of all at once, with weights in place of repeated labeled rows.

    class_balanced: labeled rows of each class that has some weigh the same in all. least_fraction
    (0 <= it < 1): where labeled rows have less of the total weight, theirs is raised to it. Sums
    are rounded once, so they do not depend on an order.
    """
    given = ~learned.is_pseudo
    if not bool(given.any()) or not (class_balanced or least_fraction):
        return learned
    weights = torch.ones(len(learned)) if learned.weights is None else learned.weights
    weights = weights.double()
    if class_balanced:
        _, classes, counts = learned.targets[given].unique(return_inverse=True, return_counts=True)
        weights[given] *= int(given.sum()) / (len(counts) * counts[classes]).double()
    labeled, pseudo = (math.fsum(weights[rows].tolist()) for rows in (given, ~given))
    if labeled < least_fraction * (labeled + pseudo):
        weights[given] *= least_fraction * pseudo / ((1.0 - least_fraction) * labeled)
    return replace(learned, weights=weights.float())
