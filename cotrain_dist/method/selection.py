"""R_A and R_B: the images of U on which one model is sure and the other is not."""

import torch
from torch import Tensor

from cotrain_dist.method.scores import LARGEST_UNCERTAINTY, threshold_code
from cotrain_dist.types import Exchange, PseudoLabeled, Role, Selection, Votes

A, B = Role.A.index, Role.B.index


def select(votes: Votes, rule: str, *, threshold: float) -> Selection:
    """R_A and R_B by the rule that `selection.rule` names.

    A rule is a function of both models' votes on U alone, so every world selects the same images.
    """
    match rule:
        case "disagreement":
            return select_disagreement(votes, threshold=threshold)
        case _:
            raise AssertionError(f"selection.rule {rule} is no value of the config")


def select_disagreement(votes: Votes, *, threshold: float) -> Selection:
    """R_A and R_B of the paper (section 3, step 2): the classes differ and exactly one is sure.

    votes.labels: [2, N] uint16; votes.uncertainty: [2, N] int16. Sure means c > τ, unsure c < τ,
    both strict and decided on codes: an uncertainty whose code equals the threshold's is neither.
    An image that either model could not score (INVALID_UNCERTAINTY) is in neither R.

    >>> from cotrain_dist.method.scores import encode_uncertainty
    >>> labels = torch.tensor([[0, 0, 0], [0, 1, 1]]).to(torch.uint16)
    >>> confidence = torch.tensor([[0.9, 0.9, 0.4], [0.5, 0.5, 0.9]])
    >>> votes = Votes(labels, encode_uncertainty(confidence))
    >>> selection = select_disagreement(votes, threshold=0.8)
    >>> selection.a.tolist(), selection.b.tolist()
    ([False, True, False], [False, False, True])
    """
    cut = threshold_code(threshold)
    valid = (votes.uncertainty <= LARGEST_UNCERTAINTY).all(dim=0)
    # Measured on Caltech-101 at 64 pixels: of the images with a confidence above 0.9, 45 % are
    # labeled right where the models differ and 94 % where they agree (docs/results.md). R has the
    # former.
    differ = (votes.labels[A] != votes.labels[B]) & valid
    sure, unsure = votes.uncertainty < cut, votes.uncertainty > cut
    # No image is in both: A would have to be sure and unsure.
    return Selection(a=differ & sure[A] & unsure[B], b=differ & sure[B] & unsure[A])


def label_selected(selection: Selection, votes: Votes, pool_ids: Tensor) -> Exchange:
    """R_A labeled by A's votes and R_B labeled by B's. pool_ids: [N] int64, ascending."""
    selected = []
    for role, mask in ((Role.A, selection.a), (Role.B, selection.b)):
        # A mask keeps the order of U, so the ids ascend in every world; the keyed order of
        # an epoch is one of rows.
        labels = votes.labels[role.index].to(torch.int64)[mask]
        selected.append(PseudoLabeled(sample_ids=pool_ids[mask], labels=labels))
    return Exchange(*selected)
