"""Warnings about an exchange that has stopped to teach, each with what may help."""

from collections.abc import Sequence

import torch

from cotrain_dist.types import ROLES, Exchange

LARGEST_CLASS_FRACTION = 0.5
LARGEST_AGREEMENT = 0.95


def advise(exchanged: Exchange, agreement_rate: float, class_names: Sequence[str]) -> list[str]:
    """One line for each sign of collapse: an empty R, one class over half of an R, consensus.

    agreement_rate: fraction of U on which A and B name the same class.
    """
    warnings = []
    for role in ROLES:
        labels = exchanged.selected_by(role).labels
        name = f"R_{role.name}"
        if not len(labels):
            warnings.append(
                f"{name} is empty, whoever learns it trains on labeled images alone: "
                "lower selection.threshold, or let the models differ more"
            )
            continue
        counts = torch.bincount(labels)
        if counts.max() > LARGEST_CLASS_FRACTION * len(labels):
            warnings.append(
                f"{name}: {counts.max()} of {len(labels)} images are called "
                f"{class_names[int(counts.argmax())]}: raise selection.threshold or label more "
                "images of the other classes"
            )
    # Models that learn from each other converge: then R shrinks towards nothing, and Step 2 turns
    # into training on the labeled images.
    if agreement_rate > LARGEST_AGREEMENT:
        warnings.append(
            f"A and B agree on {agreement_rate:.1%} of U, so little is left to exchange: "
            "stop here, or give model_a and model_b different architectures"
        )
    return warnings
