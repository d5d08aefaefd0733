"""Scores of images to ask about, by hand."""

import math

import pytest
import torch

from cotrain_dist.method import queries
from cotrain_dist.method.herding import scale_of
from cotrain_dist.method.queries import Copies, first_of, in_order, sigma_of_rounds

SURE, HALF, EVEN = [0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]
PROBS = torch.tensor([SURE, HALF, EVEN], dtype=torch.float64)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (queries.least_confidence, [0.1, 0.5, 2 / 3]),
        (queries.margin, [0.2, 1.0, 1.0]),
        (queries.entropy, [0.3250829733914482, math.log(2), math.log(3)]),
    ],
)
def test_scores_of_one_model(score, expected) -> None:
    assert score(PROBS).tolist() == pytest.approx(expected)


def test_one_class_has_no_margin() -> None:
    assert queries.margin(torch.ones(3, 1)).tolist() == [0.0, 0.0, 0.0]


def test_a_committee_is_asked_where_it_differs() -> None:
    probs = torch.tensor([[SURE, SURE, HALF], [SURE, [0.0, 0.1, 0.9], EVEN]], dtype=torch.float64)
    divergence = queries.committee(probs)
    mean = [0.45, 0.1, 0.45]
    expected = -sum(p * math.log(p) for p in mean) - 0.3250829733914482
    assert divergence.tolist()[:2] == pytest.approx([0.0, expected])
    votes = queries.vote_entropy(probs)
    assert votes[1] == pytest.approx(math.log(2) + 1e-3 * expected)
    assert in_order(votes) == [1, 2, 0]


def test_density_prefers_what_has_many_neighbors() -> None:
    similarity = torch.tensor([-1.0, 0.0, 1.0]).double()
    assert queries.density(similarity).tolist() == [0.0, 0.5, 1.0]
    assert queries.density(similarity, torch.tensor([1.0, 2.0, 0.5])).tolist() == [0.0, 1.0, 0.5]


def test_the_expected_gradient_is_that_of_the_loss() -> None:
    head = torch.nn.Linear(4, 3).double()
    features = torch.randn(5, 4).double()
    probs = head(features).softmax(dim=1).detach()
    expected = []
    for row, prob in zip(features, probs, strict=True):
        total = 0.0
        for label in range(3):
            loss = torch.nn.functional.cross_entropy(head(row[None]), torch.tensor([label]))
            gradients = torch.autograd.grad(loss, list(head.parameters()))
            total += float(prob[label] * torch.cat([g.flatten() for g in gradients]).norm())
        expected.append(total)
    assert queries.expected_gradient(probs, features).tolist() == pytest.approx(expected)


def test_mean_similarity_is_that_of_all_pairs() -> None:
    angles = torch.tensor([0.0, 0.5, 3.0]).double()
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = (circle * scale_of(2)).round().to(torch.int16)
    expected = (circle @ circle.T).mean(dim=1)
    torch.testing.assert_close(
        queries.mean_similarity(points, points), expected, atol=1e-3, rtol=0.0
    )


def test_equal_scores_keep_their_order_to_nine_digits() -> None:
    assert in_order(torch.tensor([0.5, 0.7, 0.5 + 1e-12, 0.1]).double()) == [1, 0, 2, 3]


def test_sigma_is_the_least_distance_of_labeled_images() -> None:
    scale = scale_of(2)
    points = torch.tensor([[scale, 0], [0, scale], [-scale, 0]], dtype=torch.int16)
    assert sigma_of_rounds(points) == pytest.approx(math.sqrt(2), abs=1e-3)
    assert sigma_of_rounds(torch.cat([points, points[:1]])) == queries.SMALLEST_SIGMA
    assert sigma_of_rounds(points[:1]) == 1.0


def test_near_images_are_listed_once() -> None:
    scale = scale_of(2)
    angles = torch.tensor([0.0, 0.01, 1.0, 2.0, 2.01, 3.0]).double()
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = (circle * scale).round().to(torch.int16)
    order = list(range(6))
    assert first_of(order, 6, Copies(points, points[:0], near=0.05)) == [0, 2, 3, 5]
    assert first_of(order, 6, Copies(points, points[2:3], near=0.05)) == [0, 3, 5]
    assert first_of(order, 2, Copies(points, points[2:3], near=0.05)) == [0, 3]
    assert first_of(order, 6, Copies(points, points, near=0.0)) == order
    many = points.repeat(40, 1)  # more than there is room for at first
    assert first_of(list(range(240)), 240, Copies(many, points[:0], near=0.05)) == [0, 2, 3, 5]
