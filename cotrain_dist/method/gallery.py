"""Which images of U a person is to look at: where two models differ, or are unsure, or wrong."""

import torch
from torch import Tensor

A_TEACHES, B_TEACHES = "a_teaches", "b_teaches"
"""They name different classes, and A, or B, is the surer one: who teaches by the paper's rule."""

DIFFER, UNSURE, BOTH_WRONG = "differ", "unsure", "both_wrong"
"""Both are sure of different classes; neither is sure; both are wrong, where the truth is known."""

KINDS = (A_TEACHES, B_TEACHES, DIFFER, UNSURE, BOTH_WRONG)


def choose_images(
    probs_a: Tensor, probs_b: Tensor, targets: Tensor, num: int
) -> dict[str, list[int]]:
    """The `num` most telling images of each kind, the most telling first; fewer where there are.

    probs_a, probs_b: [n, C] float, rows sum to 1. targets: [n] int64, -1 where nobody knows.
    Returns places, 0..n-1. No class, as the surer model calls it, fills more than a quarter of a
    kind: else the easiest class of a large pool would fill all of it.

    >>> a = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    >>> b = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9]])
    >>> found = choose_images(a, b, torch.tensor([0, 1, -1, 0]), 4)
    >>> for kind, places in found.items():
    ...     print(kind, places)
    a_teaches [2]
    b_teaches [1]
    differ [2, 1]
    unsure [1, 0, 2, 3]
    both_wrong [3]
    """
    (sure_a, label_a), (sure_b, label_b) = probs_a.max(dim=1), probs_b.max(dim=1)
    surest, least = torch.maximum(sure_a, sure_b), torch.minimum(sure_a, sure_b)
    named = torch.where(sure_a >= sure_b, label_a, label_b)
    is_wrong = (targets >= 0) & (label_a != targets) & (label_b != targets)
    differ = label_a != label_b
    wanted = {
        A_TEACHES: (differ & (sure_a > sure_b), sure_a - sure_b),
        B_TEACHES: (differ & (sure_b > sure_a), sure_b - sure_a),
        DIFFER: (differ, least),
        UNSURE: (torch.ones_like(is_wrong), -surest),
        BOTH_WRONG: (is_wrong, surest),
    }
    return {
        kind: _first(scores, is_meant, named, num) for kind, (is_meant, scores) in wanted.items()
    }


def _first(scores: Tensor, is_meant: Tensor, named: Tensor, num: int) -> list[int]:
    """Places with the highest scores among those meant, at most a quarter of them of one class."""
    counts: dict[int, int] = {}
    most, chosen = max(2, num // 4), list[int]()
    for place in scores.argsort(descending=True, stable=True).tolist():
        if len(chosen) == num:
            break
        name = int(named[place])
        if is_meant[place] and counts.get(name, 0) < most:
            counts[name] = counts.get(name, 0) + 1
            chosen.append(place)
    return chosen
