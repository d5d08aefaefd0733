"""Recall by class and the most confused pairs, by hand; splits that may be empty."""

import math
import re

import pytest
import torch

from cotrain_dist.errors import UserError
from cotrain_dist.method.metrics import Confusion, class_recall, most_confused
from cotrain_dist.method.splits import Fractions, Split, draw_splits

# true classes 0 0 0 1 1 2 2 2 2
TARGETS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
LABELS = torch.tensor([0, 1, 1, 1, 0, 0, 0, 1, 2])


def test_class_recall_by_hand() -> None:
    recall = class_recall(LABELS, TARGETS, 4)
    assert recall.dtype == torch.float64
    assert recall[:3].tolist() == [1 / 3, 1 / 2, 1 / 4]
    assert math.isnan(recall[3])


def test_class_recall_of_a_class_that_is_only_called() -> None:
    recall = class_recall(torch.tensor([1, 1]), torch.tensor([0, 0]), 2)
    assert recall[0] == 0.0
    assert math.isnan(recall[1])


def test_most_confused_by_hand() -> None:
    """0 called 1 twice, 2 called 0 twice; then 1 called 0, and 2 called 1, once each."""
    assert most_confused(LABELS, TARGETS, 10) == [
        Confusion(true=0, called=1, count=2),
        Confusion(true=2, called=0, count=2),
        Confusion(true=1, called=0, count=1),
        Confusion(true=2, called=1, count=1),
    ]


@pytest.mark.parametrize("num_pairs", [0, 1, 3])
def test_no_more_pairs_than_asked_for(num_pairs: int) -> None:
    assert (
        most_confused(LABELS, TARGETS, num_pairs) == most_confused(LABELS, TARGETS, 10)[:num_pairs]
    )


def test_nothing_is_confused() -> None:
    assert most_confused(TARGETS, TARGETS, 5) == []


def groups_of(sizes: list[int], shares: Fractions, *, pool_needed: bool = True) -> torch.Tensor:
    class_ids = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    names = [f"class {i}" for i in range(len(sizes))]
    return draw_splits(class_ids, names, shares, seed=0, pool_needed=pool_needed)


def test_no_t_where_none_is_asked_for() -> None:
    groups = groups_of([10, 20], Fractions(test=0, validation=0.1, labeled=2))
    assert torch.bincount(groups, minlength=5).tolist() == [0, 3, 4, 4, 19]


@pytest.mark.parametrize("test", [0, 1])
def test_u_may_be_empty_where_it_is_filled_from_elsewhere(test: int) -> None:
    size = test + 4
    shares = Fractions(test=test, validation=0.0, labeled=2)
    groups = groups_of([size, size], shares, pool_needed=False)
    assert torch.bincount(groups, minlength=5).tolist() == [2 * test, 0, 4, 4, 0]
    with pytest.raises(UserError, match=re.escape(f"data.root: class 0 ({size} images), class 1")):
        groups_of([size, size], shares)


def test_l_may_not_be_empty_in_any_case() -> None:
    shares = Fractions(test=0, validation=0.0, labeled=0.1)
    with pytest.raises(UserError, match=r"data.root: class 1 \(4 images\): each class needs"):
        groups_of([10, 4], shares, pool_needed=False)


def test_t_does_not_move_when_u_is_filled_from_elsewhere() -> None:
    shares = Fractions(test=3, validation=0.0, labeled=2)
    one, other = (groups_of([10], shares, pool_needed=needed) for needed in (True, False))
    assert torch.equal(one == Split.T, other == Split.T)
