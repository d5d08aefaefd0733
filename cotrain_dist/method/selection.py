"""R_A and R_B: which images of U each model teaches, by the votes alone."""

import torch
from torch import Tensor

from cotrain_dist.config import SelectionConfig
from cotrain_dist.config.running import MEAN_RULES
from cotrain_dist.method.scores import LARGEST_UNCERTAINTY
from cotrain_dist.method.thresholds import (
    adapt_cuts,
    class_limits,
    count_classes,
    cut_of_each,
    fixed_cuts,
    ranking_keys,
    within_limits,
)
from cotrain_dist.method.weights import decode_weights, weight_codes
from cotrain_dist.types import ROLES, Exchange, PseudoLabeled, Role, Selection, Votes

A, B = Role.A.index, Role.B.index

MEAN = 2
"""Row of the votes of the mean of both models' probabilities, where there is one."""


def select(votes: Votes, rule: str, *, cuts: Tensor) -> Selection:
    """R_A and R_B by the rule that `selection.rule` names.

    A rule is a function of the votes on U alone, so every world selects the same images. votes:
    [2, N], or [3, N] with the mean's; cuts: codes of 1 - τ, [rows, C] int16, or [rows, 1] where all
    classes share one (`method.thresholds`). Sure means a code below the cut of the class that is
    named, unsure above it; an image that could not be scored is neither.
    """
    match rule:
        case "disagreement":
            return select_disagreement(votes, cuts=cuts)
        case "agreement":
            return select_agreement(votes, cuts=cuts)
        case "agreement_peer":
            return select_agreement_peer(votes, cuts=cuts)
        case "confident_peer":
            return select_confident_peer(votes, cuts=cuts)
        case "mean_hard" | "mean_soft":
            # The soft one takes no threshold: its cuts lie above the code of every scored image.
            return select_mean(votes, cuts=cuts)
        case _:
            raise AssertionError(f"selection.rule {rule} is no value of the config")


def select_disagreement(votes: Votes, *, cuts: Tensor) -> Selection:
    """R_A and R_B of the paper (section 3, step 2): the classes differ and exactly one is sure.

    votes.labels: [2, N] uint16; votes.uncertainty: [2, N] int16. Sure means c > τ, unsure c < τ,
    both strict and decided on codes: an uncertainty whose code equals the threshold's is neither.
    An image that either model could not score (INVALID_UNCERTAINTY) is in neither R.

    >>> from cotrain_dist.method.scores import encode_uncertainty
    >>> from cotrain_dist.method.thresholds import fixed_cuts
    >>> labels = torch.tensor([[0, 0, 0], [0, 1, 1]]).to(torch.uint16)
    >>> confidence = torch.tensor([[0.9, 0.9, 0.4], [0.5, 0.5, 0.9]])
    >>> votes = Votes(labels, encode_uncertainty(confidence))
    >>> selection = select_disagreement(votes, cuts=fixed_cuts(0.8))
    >>> selection.a.tolist(), selection.b.tolist()
    ([False, True, False], [False, False, True])
    """
    # Measured on Caltech-101 at 64 pixels: of the images with a confidence above 0.9, 45 % are
    # labeled right where the models differ and 94 % where they agree (docs/results.md). R has the
    # former.
    differ = (votes.labels[A] != votes.labels[B]) & _both_scored(votes)
    # No image is in both: A would have to be sure and unsure.
    return Selection(
        a=differ & _sure(votes, A, cuts) & _unsure(votes, B, cuts),
        b=differ & _sure(votes, B, cuts) & _unsure(votes, A, cuts),
    )


def select_agreement(votes: Votes, *, cuts: Tensor) -> Selection:
    """Images that both call by one name and both are sure of: R_A and R_B are equal."""
    # Two that were not scored have label 0 each, but neither is sure.
    agreed = (votes.labels[A] == votes.labels[B]) & _sure(votes, A, cuts) & _sure(votes, B, cuts)
    return Selection(a=agreed, b=agreed)


def select_agreement_peer(votes: Votes, *, cuts: Tensor) -> Selection:
    """What both call by one name, one or both of them surely; and the R of `disagreement`.

    So each model learns what is agreed on, and the peer's answer where the peer is the surer one.
    """
    one_name = (votes.labels[A] == votes.labels[B]) & _both_scored(votes)
    agreed = one_name & (_sure(votes, A, cuts) | _sure(votes, B, cuts))
    alone = select_disagreement(votes, cuts=cuts)
    return Selection(a=agreed | alone.a, b=agreed | alone.b)


def select_confident_peer(votes: Votes, *, cuts: Tensor) -> Selection:
    """All images that the teacher is sure of, whatever the other says, or could not score."""
    return Selection(a=_sure(votes, A, cuts), b=_sure(votes, B, cuts))


def select_mean(votes: Votes, *, cuts: Tensor) -> Selection:
    """Images that the mean of both models' probabilities is sure of: R_A and R_B are equal.

    votes: [3, N], the mean's last.
    """
    assert len(votes.labels) > MEAN, "a rule of the mean needs the mean's votes"
    sure = _sure(votes, MEAN, cuts)
    return Selection(a=sure, b=sure)


def _sure(votes: Votes, row: int, cuts: Tensor) -> Tensor:
    return votes.uncertainty[row] < cut_of_each(cuts, votes, row)


def _unsure(votes: Votes, row: int, cuts: Tensor) -> Tensor:
    """Also of images that could not be scored: who asks for these leaves them out."""
    return votes.uncertainty[row] > cut_of_each(cuts, votes, row)


def _both_scored(votes: Votes) -> Tensor:
    return (votes.uncertainty[: B + 1] <= LARGEST_UNCERTAINTY).all(dim=0)


def labeling_row(rule: str, role: Role) -> int:
    """The row of votes that labels a role's R: its own, or the mean's."""
    return MEAN if rule in MEAN_RULES else role.index


def surest_keys(selection: Selection, votes: Votes, rule: str, start: int) -> tuple[Tensor, Tensor]:
    """By which the images of R_A and of R_B rank in their class, [K] int64 each.

    start: the place in U of the first image.
    """
    places = torch.arange(start, start + votes.labels.shape[1])
    keys = []
    for role, mask in zip(ROLES, (selection.a, selection.b), strict=True):
        row = labeling_row(rule, role)
        keys.append(
            ranking_keys(votes.labels[row][mask], votes.uncertainty[row][mask], places[mask])
        )
    return keys[0], keys[1]


def keep_surest(
    selection: Selection, votes: Votes, rule: str, start: int, limits: tuple[Tensor, Tensor]
) -> Selection:
    """Of R_A and R_B the images within the limits of their classes (`thresholds.class_limits`).

    limits: [C] int64 each. start: the place in U of the first image.
    """
    kept = []
    keys = surest_keys(selection, votes, rule, start)
    for mask, own, limit in zip((selection.a, selection.b), keys, limits, strict=True):
        kept.append(mask.masked_scatter(mask, within_limits(own, limit)))
    return Selection(*kept)


def label_selected(
    selection: Selection, votes: Votes, pool_ids: Tensor, *, rule: str, weights: str
) -> Exchange:
    """R_A labeled by A's votes and R_B by B's, or both by the mean's.

    pool_ids: [N] int64, ascending. weights: the setting `selection.weights`; what would have a
    weight of 0 is left out.
    """
    selected = []
    for role, mask in ((Role.A, selection.a), (Role.B, selection.b)):
        row, weight = labeling_row(rule, role), None
        if weights != "none":
            codes = weight_codes(votes, row, role.peer.index, weights)
            mask = mask & (codes < LARGEST_UNCERTAINTY)
            weight = decode_weights(codes[mask])
        # A mask keeps the order of U, so the ids ascend in every world; the keyed order of
        # an epoch is one of rows.
        labels = votes.labels[row].to(torch.int64)[mask]
        selected.append(PseudoLabeled(pool_ids[mask], labels, weights=weight))
    return Exchange(*selected)


def select_from_all(
    votes: Votes, pool_ids: Tensor, selection: SelectionConfig, num_classes: int
) -> Exchange:
    """R_A and R_B from the votes on all of U at once, [2, N], or [3, N] with the mean's.

    pool_ids: [N] int64, ascending. What `training/pool.py` makes of parts is the same.
    """
    rule, cuts = selection.rule, fixed_cuts(selection.cut)
    if selection.threshold_policy != "fixed":
        counts = count_classes(votes, num_classes, threshold=selection.cut)
        cuts = adapt_cuts(counts, selection.threshold_policy, selection.cut)
    selected = select(votes, rule, cuts=cuts)
    if selection.top_k_per_class is not None:
        keys = surest_keys(selected, votes, rule, 0)
        a, b = (class_limits(own, selection.top_k_per_class) for own in keys)
        selected = keep_surest(selected, votes, rule, 0, (a, b))
    return label_selected(selected, votes, pool_ids, rule=rule, weights=selection.weights)
