"""Warnings about an exchange that has stopped to teach."""

import pytest
import torch

from cotrain_dist.method.advice import advise
from cotrain_dist.types import Exchange, PseudoLabeled

NAMES = ["cat", "dog", "eel"]


def selected(labels: list[int]) -> PseudoLabeled:
    return PseudoLabeled(torch.arange(len(labels)), torch.tensor(labels, dtype=torch.int64))


def advise_on(labels_a: list[int], labels_b: list[int], num_agreeing: int = 50) -> list[str]:
    """Advice on 100 votes, of which so many agree."""
    return advise(Exchange(selected(labels_a), selected(labels_b)), num_agreeing / 100, NAMES)


@pytest.mark.parametrize(
    ("labels_a", "labels_b", "num_agreeing"),
    [([0, 1, 2], [2, 1], 50), ([0, 0, 1, 2], [0, 1], 95)],  # half of an R, 95 %: not yet
)
def test_healthy_exchange_gives_no_warning(
    labels_a: list[int], labels_b: list[int], num_agreeing: int
) -> None:
    assert advise_on(labels_a, labels_b, num_agreeing) == []


@pytest.mark.parametrize(
    ("labels_a", "labels_b", "num_agreeing", "starts"),
    [
        ([], [0, 1, 2], 50, ["R_A is empty"]),
        ([0, 1], [], 50, ["R_B is empty"]),
        ([], [], 50, ["R_A is empty", "R_B is empty"]),
        ([1, 1, 2], [0, 1], 50, ["R_A: 2 of 3 images are called dog"]),
        ([0, 1], [2, 2, 2, 0, 1], 50, ["R_B: 3 of 5 images are called eel"]),
        ([0, 1], [0, 1], 96, ["A and B agree on 96.0% of U"]),
        ([], [1], 100, ["R_A is empty", "R_B: 1 of 1 images", "A and B agree on 100.0% of U"]),
    ],
)
def test_each_sign_of_collapse_is_named(
    labels_a: list[int], labels_b: list[int], num_agreeing: int, starts: list[str]
) -> None:
    warnings = advise_on(labels_a, labels_b, num_agreeing)
    assert len(warnings) == len(starts)
    for warning, start in zip(warnings, starts, strict=True):
        assert warning.startswith(start)
