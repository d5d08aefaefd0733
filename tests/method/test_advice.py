"""Warnings: an exchange that has stopped to teach, weights that have exploded."""

import pytest
import torch

from cotrain_dist.method.advice import (
    Watched,
    advise,
    advise_after_step_one,
    advise_in_step_two,
    weights_of,
)
from cotrain_dist.types import Exchange, PseudoLabeled, Role

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


@pytest.mark.parametrize(
    ("now", "before", "num_images", "num_of_one_class", "expected"),
    [
        (98, 99, 100, 10, "well"),
        (60, 99, 100, 10, "well"),  # a large loss, but more than half of 89 above chance is left
        (54, 99, 100, 10, "fallen"),  # 44 above chance, of 89
        (10, 99, 100, 10, "fallen"),
        (55, 99, 100, 50, "fallen"),  # two classes: half right is nothing
        (76, 99, 100, 50, "well"),
        (10, 12, 100, 10, "at chance"),  # nothing was there to be lost
        (12, 12, 100, 10, "at chance"),
        (30, 30, 100, 10, "well"),  # far from fitting, but it has learned something
        (2, 8, 8, 2, "fallen"),
        (1, 4, 4, 1, "at chance"),  # of four images nobody can say that it has fallen
        (2, 2, 2, 1, "well"),  # as good as can be
        (5, 5, 5, 5, "well"),  # one class: all are right
        (0, 5, 5, 5, "fallen"),
        (0, 0, 0, 0, "well"),
    ],
)
def test_what_answers_tell_of_weights(
    now: int, before: int, num_images: int, num_of_one_class: int, expected: str
) -> None:
    def seen(num_right: int) -> Watched:
        return Watched(num_right, num_images, num_of_one_class)

    assert weights_of(seen(now), seen(before)) == expected


def test_exploded_weights_are_told_with_advice() -> None:
    well, lost = Watched(99, 100, 10), Watched(10, 100, 10)
    (line,) = advise_in_step_two(Role.A, lost, well, "V")
    assert line.startswith("model A is far below its start on V (99 of 100 right before Step 2)")
    assert "lower cotrain.learning_rate" in line
    assert advise_in_step_two(Role.A, well, well, "V") == []
    assert advise_in_step_two(Role.A, lost, lost, "V") == []
    (line,) = advise_after_step_one(Role.B, lost)
    assert line.startswith("model B calls 10 of its 100 own labels right")
    assert "lower pretrain.learning_rate" in line
    assert advise_after_step_one(Role.B, well) == []
