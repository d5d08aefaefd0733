"""Weights of pseudo-labels, of R and of labeled rows, by hand."""

import math

import pytest
import torch

from cotrain_dist.method.scores import LARGEST_UNCERTAINTY, encode_uncertainty
from cotrain_dist.method.weights import (
    decode_weights,
    encode_weights,
    ramped_weight,
    weigh_labeled,
    weight_codes,
)
from cotrain_dist.types import TrainingSet, Votes


def votes_of(labels: list[list[int]], confidence: list[list[float]]) -> Votes:
    return Votes(
        labels=torch.tensor(labels, dtype=torch.uint16),
        uncertainty=encode_uncertainty(torch.tensor(confidence, dtype=torch.float64)),
    )


def test_every_code_comes_back_from_its_weight() -> None:
    codes = torch.arange(LARGEST_UNCERTAINTY + 1, dtype=torch.int16)
    weights = decode_weights(codes)
    assert weights.dtype == torch.float32
    assert torch.equal(encode_weights(weights), codes)
    assert (weights[0], weights[-1]) == (1.0, 0.0)


def test_confidence_is_the_teachers() -> None:
    votes = votes_of([[0, 0], [0, 1]], [[0.875, 0.75], [0.5, 0.25]])
    assert decode_weights(weight_codes(votes, 0, 1, "confidence")).tolist() == [0.875, 0.75]
    assert decode_weights(weight_codes(votes, 1, 0, "confidence")).tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("labels", "confidences", "weight"),
    [
        pytest.param((1, 1), (0.9, 0.5), 0.5**4, id="one name: the other's probability"),
        pytest.param((1, 1), (0.5, 1.0), 1.0, id="one name, the other is the surer one"),
        pytest.param((1, 2), (0.9, 0.75), 0.25**4, id="what the other leaves over"),
        pytest.param((1, 2), (0.9, 0.25), 0.25**4, id="no more than the other's own class has"),
        pytest.param((1, 2), (0.75, 0.75), 0.25**4, id="equally sure of another class"),
        pytest.param((1, 2), (0.5, 0.75), 0.0, id="the other is surer of another class"),
        pytest.param((1, 0), (0.9, math.nan), 0.0, id="the other was not scored"),
        pytest.param((0, 0), (0.9, math.nan), 0.0, id="nor is its label 0 agreement"),
        pytest.param((1, 2), (1.0, 1.0), 0.0, id="nothing is left over"),
    ],
)
def test_agreement_by_hand(
    labels: tuple[int, int], confidences: tuple[float, float], weight: float
) -> None:
    votes = votes_of([[label] for label in labels], [[c] for c in confidences])
    codes = weight_codes(votes, 0, 1, "agreement")
    assert codes.dtype == torch.int16
    assert decode_weights(codes).item() == pytest.approx(weight, abs=2**-12)
    assert (codes.item() == LARGEST_UNCERTAINTY) == (weight == 0.0)


def test_an_unknown_weight_is_a_bug() -> None:
    with pytest.raises(AssertionError, match=r"selection.weights none is no value"):
        weight_codes(votes_of([[0], [0]], [[0.5], [0.5]]), 0, 1, "none")


def test_the_weight_of_r_rises() -> None:
    assert [ramped_weight(epoch, 0.5, 0) for epoch in (1, 2)] == [0.5, 0.5]
    assert [ramped_weight(epoch, 2.0, 3) for epoch in (1, 2, 3, 4, 9)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert ramped_weight(1, 1.0, 0) == 1.0


def rows_of(
    targets: list[int], num_labeled: int, weights: list[float] | None = None
) -> TrainingSet:
    ids = torch.arange(len(targets))
    given = None if weights is None else torch.tensor(weights)
    return TrainingSet(ids, torch.tensor(targets), ids >= num_labeled, given)


def test_labeled_rows_get_their_share_of_the_weight() -> None:
    learned = rows_of([0, 1, 0, 0, 0, 0], 2, [1.0, 1.0, 0.5, 0.5, 2.0, 3.0])
    found = weigh_labeled(learned, least_fraction=0.75, class_balanced=False)
    assert found.weights is not None
    assert found.weights.dtype == torch.float32
    # R weighs 6, so L has to weigh 18.
    assert found.weights.tolist() == [9.0, 9.0, 0.5, 0.5, 2.0, 3.0]
    assert torch.equal(found.targets, learned.targets)


def test_who_has_the_share_keeps_the_weights() -> None:
    learned = rows_of([0, 1, 0], 2)
    found = weigh_labeled(learned, least_fraction=0.5, class_balanced=False)
    assert found.weights is not None
    assert found.weights.tolist() == [1.0, 1.0, 1.0]
    assert weigh_labeled(learned, least_fraction=0.0, class_balanced=False) is learned
    alone = rows_of([0, 1], 0)
    assert weigh_labeled(alone, least_fraction=0.5, class_balanced=True) is alone


def test_classes_weigh_the_same_and_r_as_before() -> None:
    learned = rows_of([0, 0, 0, 2, 2, 2, 2], 4)
    found = weigh_labeled(learned, least_fraction=0.0, class_balanced=True)
    assert found.weights is not None
    assert found.weights.tolist() == pytest.approx([2 / 3] * 3 + [2.0] + [1.0] * 3)
    both = weigh_labeled(learned, least_fraction=0.8, class_balanced=True)
    assert both.weights is not None
    assert both.weights.tolist() == pytest.approx([2.0] * 3 + [6.0] + [1.0] * 3)
