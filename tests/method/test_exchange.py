"""Whose R a role learns: the whole table of modes, parities, epochs and roles."""

import pytest
import torch

from cotrain_dist.method.exchange import (
    choose_views,
    taught_to,
    teacher_of,
    training_set,
    with_unlabeled,
)
from cotrain_dist.types import Exchange, PseudoLabeled, Role, TrainingSet

# mode, parity: the teachers of A and of B in epochs 1 to 4
TABLE = {
    ("alternate", "even_own"): ("baba", "abab"),
    ("alternate", "odd_own"): ("abab", "baba"),
    ("peer", "even_own"): ("bbbb", "aaaa"),
    ("peer", "odd_own"): ("bbbb", "aaaa"),
    ("own", "even_own"): ("aaaa", "bbbb"),
    ("own", "odd_own"): ("aaaa", "bbbb"),
    ("none", "even_own"): ("----", "----"),
    ("none", "odd_own"): ("----", "----"),
}

EXCHANGE = Exchange(
    a=PseudoLabeled(sample_ids=torch.tensor([4, 7]), labels=torch.tensor([0, 1])),
    b=PseudoLabeled(sample_ids=torch.tensor([5]), labels=torch.tensor([2])),
)


@pytest.mark.parametrize(("mode", "parity"), TABLE)
def test_teachers(mode: str, parity: str) -> None:
    found = []
    for role in (Role.A, Role.B):
        teachers = [teacher_of(role, epoch, mode, parity) for epoch in (1, 2, 3, 4)]
        found.append("".join("-" if teacher is None else teacher.value for teacher in teachers))
    assert tuple(found) == TABLE[mode, parity]


@pytest.mark.parametrize(("mode", "parity"), TABLE)
@pytest.mark.parametrize("role", [Role.A, Role.B])
@pytest.mark.parametrize("epoch", [1, 2])
def test_taught_images_are_the_teachers(mode: str, parity: str, role: Role, epoch: int) -> None:
    letter = TABLE[mode, parity][role.index][epoch - 1]
    expected = {"a": ([4, 7], [0, 1]), "b": ([5], [2]), "-": ([], [])}[letter]
    taught = taught_to(role, EXCHANGE, epoch, mode, parity)
    assert (taught.sample_ids.tolist(), taught.labels.tolist()) == expected
    assert taught.sample_ids.dtype == taught.labels.dtype == torch.int64


def test_unknown_mode_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="exchange swap is no value"):
        teacher_of(Role.A, 1, "swap", "even_own")


def test_a_training_set_is_l_and_then_what_was_taught() -> None:
    labeled = TrainingSet(torch.tensor([2, 5]), torch.tensor([0, 1]), torch.tensor([False, False]))
    taught = PseudoLabeled(torch.tensor([3, 9, 11]), torch.tensor([1, 1, 0]))
    learned = training_set(labeled, taught)
    assert learned.sample_ids.tolist() == [2, 5, 3, 9, 11]
    assert learned.targets.tolist() == [0, 1, 1, 1, 0]
    assert learned.is_pseudo.tolist() == [False, False, True, True, True]
    assert learned.weights is None
    assert len(training_set(labeled, PseudoLabeled.empty())) == 2


def test_weights_of_a_training_set() -> None:
    labeled = TrainingSet(torch.tensor([2, 5]), torch.tensor([0, 1]), torch.tensor([False, False]))
    ids, labels = torch.tensor([3, 9]), torch.tensor([1, 1])
    plain, weighted = (
        PseudoLabeled(ids, labels, weights=weights) for weights in (None, torch.tensor([0.5, 0.25]))
    )
    cases = [
        (plain, 1.0, None),
        (plain, 0.5, [1.0, 1.0, 0.5, 0.5]),
        (weighted, 1.0, [1.0, 1.0, 0.5, 0.25]),
        (weighted, 2.0, [1.0, 1.0, 1.0, 0.5]),
        (PseudoLabeled.empty(), 0.5, None),
    ]
    for taught, factor, expected in cases:
        weights = training_set(labeled, taught, factor).weights
        assert (None if weights is None else weights.tolist()) == expected
        assert weights is None or weights.dtype == torch.float32


LEARNED = TrainingSet(
    torch.tensor([2, 5, 3]), torch.tensor([0, 1, 1]), torch.tensor([False, False, True])
)


@pytest.mark.parametrize(
    ("pseudo_view", "usual", "epoch", "expected"),
    [
        ("same", "crop_flip", 1, None),
        ("same", "strong", 2, None),
        ("strong", "crop_flip", 1, [False, False, True]),
        ("strong", "strong", 1, [True, True, True]),
        ("in_turn", "crop_flip", 1, [False, False, False]),
        ("in_turn", "crop_flip", 2, [False, False, True]),
        ("in_turn", "strong", 3, [True, True, False]),
    ],
)
def test_views_of_pseudo_labeled_images(
    pseudo_view: str, usual: str, epoch: int, expected: list[bool] | None
) -> None:
    found = choose_views(LEARNED, pseudo_view, usual, epoch).is_strong
    assert (None if found is None else found.tolist()) == expected


def test_an_unknown_view_is_a_bug() -> None:
    with pytest.raises(AssertionError, match=r"train\.pseudo_view odd is no value"):
        choose_views(LEARNED, "odd", "crop_flip", 1)


def test_unlabeled_images_come_first_and_have_no_target() -> None:
    whole = TrainingSet(
        *(LEARNED.sample_ids, LEARNED.targets, LEARNED.is_pseudo),
        weights=torch.tensor([1.0, 1.0, 0.5]),
        soft=torch.tensor([[0.25, 0.75]], dtype=torch.float16),
        is_strong=torch.tensor([False, False, True]),
    )
    found = with_unlabeled(whole, torch.tensor([3, 8]))
    assert found.sample_ids.tolist() == [3, 8, 2, 5, 3]
    assert found.targets.tolist() == [-1, -1, 0, 1, 1]
    assert found.is_pseudo.tolist() == [True, True, False, False, True]
    assert found.weights is not None
    assert found.weights.tolist() == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert found.is_strong is not None
    assert found.is_strong.tolist() == [True, True, False, False, True]
    # Soft targets are still those of the last rows.
    assert found.probs_of(torch.tensor([3, 4]), 2).tolist() == [[0.0, 1.0], [0.25, 0.75]]
    plain = with_unlabeled(LEARNED, torch.tensor([8]))
    assert (plain.weights, plain.soft, plain.is_strong) == (None, None, None)
