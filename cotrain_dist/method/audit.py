"""Labels with a promise: how many of a model's labels may be kept, so that few of them are wrong.

An *audit* is a uniform draw from U, labeled by a person and used for nothing else. Images are put
in order by certainty, and a cut is moved down, from the surest on, as long as a test at level
`delta` says that the promise holds there. The cuts come in an order that was fixed before, and the
walk stops at the first one that fails, so that the promise is broken with probability `delta` at
most, however many cuts are tried (fixed-sequence testing: Maurer, Hothorn and Lehmacher 1995;
Angelopoulos et al. 2021, arXiv 2110.01052). To cut where the share of right ones in the audit is
just high enough promises nothing: about half of such cuts are too low (docs/labels.md).

Certainties are float64, larger is surer. All is computed on one rank, from whole numbers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from scipy.stats import binom, hypergeom
from torch import Tensor

STEP = 5
"""Audited images from one tested cut to the next; fixed, so that no data can choose it."""

NUM_CUTS = 200
"""Cuts that `cut_for_error` tries, equally many images apart."""

CANNOT_TELL = "?"
"""A person's answer that names no class; it counts as a wrong label."""

ALL = -math.inf
"""A cut that leaves out nothing."""


@dataclass(frozen=True)
class Cut:
    """Where labels are kept, and what the audit shows of them."""

    above: float
    """Labels of a certainty above this are kept."""
    num_audited: int
    """Audited images above it."""
    num_wrong: int
    """Those of them whose label is wrong."""


def least_audit(right: float, delta: float) -> int:
    """The smallest audit that can show, without one wrong label, that a share is right.

    >>> [least_audit(precision, 0.05) for precision in (0.90, 0.95, 0.98)]
    [29, 59, 149]
    """
    return math.ceil(math.log(delta) / math.log(right))


def cut_for_precision(
    certainties: Tensor, is_right: Tensor, precision: float, delta: float
) -> Cut | None:
    """The lowest cut above which at least the share `precision` of all labels is right.

    certainties: [m] float64 of the audited images. is_right: [m] bool. With probability 1 - delta
    over the draw of the audit that holds for all images above the cut, wherever they were audited.
    None where the audit shows it nowhere.

    >>> certainties = torch.arange(100).double()
    >>> cut_for_precision(certainties, certainties >= 40, 0.9, 0.05)
    Cut(above=40.0, num_audited=59, num_wrong=0)
    """
    _check(certainties, is_right)
    order = certainties.argsort(descending=True, stable=True)
    values, num_wrong = certainties[order].tolist(), (~is_right[order]).cumsum(0).tolist()
    below = [*values[1:], ALL]
    cuts = [
        Cut(below[num - 1], num, num_wrong[num - 1])
        for num in range(least_audit(precision, delta), len(values) + 1, STEP)
        if below[num - 1] < values[num - 1]  # no cut separates images of one certainty
    ]
    chances = binom.cdf(
        [cut.num_wrong for cut in cuts], [cut.num_audited for cut in cuts], 1.0 - precision
    )
    return _last_before_a_failure(cuts, chances, delta)


def cut_for_error(
    all_certainties: Tensor, certainties: Tensor, is_right: Tensor, max_error: float, delta: float
) -> Cut | None:
    """The lowest cut so that at most the share `max_error` of all labels is wrong and above it.

    Who labels the images below it by hand has a set with that share of wrong labels at most (PAC
    labeling: Candes, Ilyas and Zrnic 2025, arXiv 2506.10908; here with the exact test, that of a
    draw without replacement). all_certainties: [n] float64 of U. certainties, is_right: [m] of the
    audited images. None where the audit is too small, or shows it nowhere.

    >>> everywhere = torch.arange(1000).double()
    >>> cut_for_error(everywhere, everywhere[::10], torch.ones(100).bool(), 0.05, 0.05).num_wrong
    0
    >>> cut_for_error(everywhere, everywhere[::20], torch.ones(50).bool(), 0.05, 0.05) is None
    True
    """
    _check(certainties, is_right)
    num, num_audited = len(all_certainties), len(certainties)
    num_allowed = math.floor(max_error * num)
    # What too many wrong ones would look like in the audit.
    too_many = hypergeom(num, num_allowed + 1, num_audited)
    cuts = []
    for above in _cuts_of(all_certainties):
        is_above = certainties > above
        cuts.append(Cut(above, int(is_above.sum()), int((is_above & ~is_right).sum())))
    chances = too_many.cdf([cut.num_wrong for cut in cuts])
    return _last_before_a_failure(cuts, chances, delta)


def _last_before_a_failure(
    cuts: Sequence[Cut], chances: Iterable[float], delta: float
) -> Cut | None:
    """The walk: chances of so few wrong ones if the promise did not hold at a cut, in its order."""
    passed = list(takewhile(lambda pair: pair[1] <= delta, zip(cuts, chances, strict=True)))
    return passed[-1][0] if passed else None


def _cuts_of(all_certainties: Tensor) -> list[float]:
    """Cuts from the highest down to ALL, from U alone: the audit's answers choose none of them."""
    values = all_certainties.sort(descending=True).values
    places = torch.linspace(0, len(values) - 1, NUM_CUTS).long().unique()
    return [*dict.fromkeys(values[places].tolist()), ALL]


def num_more_needed(num_audited: int, num_wrong: int, right: float, delta: float) -> int:
    """Audited images that are lacking at least, if all further ones were right.

    num_audited, num_wrong: so far.

    >>> num_more_needed(40, 0, 0.95, 0.05), num_more_needed(59, 1, 0.95, 0.05)
    (19, 34)
    """
    enough = max(num_audited, least_audit(right, delta))
    while binom.cdf(num_wrong, enough, 1.0 - right) > delta:
        enough += 1
    return enough - num_audited


def _check(certainties: Tensor, is_right: Tensor) -> None:
    assert certainties.dtype == torch.float64
    assert is_right.dtype == torch.bool
    assert certainties.shape == is_right.shape
