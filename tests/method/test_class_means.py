"""Mixtures of class directions: hand-computed cases, and sums that no order changes."""

import numpy as np
import pytest

from cotrain_dist.method.class_means import (
    POINT_STEPS,
    SHARE_STEPS,
    ClassMeans,
    Whitening,
    anchored,
    class_sums,
    encode_roots,
    moments_of,
    shares_of,
)


def _points(rows: list[list[float]]) -> np.ndarray:
    return np.rint(np.array(rows) * POINT_STEPS).astype(np.int16)


def test_roots_keep_signs_and_have_length_one() -> None:
    # Roots 3, -4 and 0, of length 5.
    points = encode_roots(np.array([[9.0, -16.0, 0.0]], dtype=np.float32))
    assert points.tolist() == [[round(0.6 * POINT_STEPS), round(-0.8 * POINT_STEPS), 0]]


def test_an_image_without_features_stays_at_zero() -> None:
    assert encode_roots(np.zeros((1, 4), dtype=np.float32)).tolist() == [[0, 0, 0, 0]]


def test_sums_do_not_depend_on_the_order_of_the_images() -> None:
    generator = np.random.default_rng(0)
    points = encode_roots(generator.normal(size=(500, 7)).astype(np.float32))
    shares = shares_of(generator.dirichlet(np.ones(3), size=500))
    order = generator.permutation(500)
    whole = (*moments_of(points), class_sums(points, shares))
    first, second = order[:123], order[123:]
    parts = [
        (*moments_of(points[part]), class_sums(points[part], shares[part]))
        for part in (first, second)
    ]
    for one, a, b in zip(whole, *parts, strict=True):
        assert np.array_equal(one, a + b)


def test_whitened_points_vary_alike_in_all_directions() -> None:
    generator = np.random.default_rng(1)
    # A thousand times more variance in one direction than in the others.
    rows = generator.normal(size=(4000, 3)) * [0.3, 0.01, 0.01]
    points = np.rint(rows * POINT_STEPS).astype(np.int16)
    whitening = Whitening.of(*moments_of(points), len(points), shrinkage=1e-6)
    white = whitening.apply(points) / POINT_STEPS
    assert np.allclose(np.linalg.norm(white, axis=1), 1.0, atol=1e-3)
    assert np.allclose(white.T @ white / len(white), np.eye(3) / 3, atol=0.02)


def test_shrinkage_leaves_the_directions_as_they_were() -> None:
    rows = np.random.default_rng(2).normal(size=(2000, 2)) * [0.3, 0.03]
    points = np.rint(rows * POINT_STEPS).astype(np.int16)
    whitening = Whitening.of(*moments_of(points), len(points), shrinkage=1e6)
    own = (points - whitening.center) / np.linalg.norm(points - whitening.center, axis=1)[:, None]
    white = whitening.apply(points) / POINT_STEPS
    # Equal up to a turn: the cosines among the points are those of before.
    assert np.allclose(white[:50] @ white[:50].T, own[:50] @ own[:50].T, atol=2e-3)


def test_probabilities_by_hand() -> None:
    points = _points([[1.0, 0.0], [0.0, 1.0]])
    shares = np.array([[3, 1], [0, 0]]) * SHARE_STEPS
    means = ClassMeans.of(
        class_sums(points, shares), shares.sum(axis=0), concentration=2.0, prior_power=1.0
    )
    # Both directions are that of the first point; of 4 images, 3 and 1, each with half an image
    # more: 3.5 to 1.5.
    assert np.allclose(means.directions, [[1.0, 0.0], [1.0, 0.0]])
    assert np.allclose(means.probs(points), [[0.7, 0.3], [0.7, 0.3]])


def test_a_class_nearer_by_angle_is_likelier() -> None:
    points = _points([[1.0, 0.0], [0.0, 1.0]])
    shares = np.array([[1, 0], [0, 1]]) * SHARE_STEPS
    means = ClassMeans.of(
        class_sums(points, shares), shares.sum(axis=0), concentration=2.0, prior_power=0.0
    )
    likely = np.exp(2.0) / (np.exp(2.0) + 1.0)
    assert np.allclose(means.probs(points), [[likely, 1 - likely], [1 - likely, likely]])


def test_a_class_that_nobody_names_gets_nothing() -> None:
    points = _points([[1.0, 0.0]])
    shares = np.array([[1, 0]]) * SHARE_STEPS
    means = ClassMeans.of(
        class_sums(points, shares), shares.sum(axis=0), concentration=5.0, prior_power=0.5
    )
    assert means.probs(points).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 0.9), (0.0, 0.5), (0.5, 0.75)])
def test_the_vote_holds_by_its_weight(weight: float, expected: float) -> None:
    # Between 9 : 1 and 1 : 1 lies, by the geometric mean, 3 : 1.
    found = anchored(np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]]), weight)
    assert np.allclose(found, [[expected, 1 - expected]])


def test_few_labels_and_a_pool_find_what_labels_alone_miss() -> None:
    """Two long, thin clouds side by side: plain angles to one label each lead astray."""
    generator = np.random.default_rng(3)
    truth = np.repeat([0, 1], 400)
    rows = generator.normal(size=(800, 2)) * [0.2, 0.004]
    rows[:, 1] += np.where(truth == 0, -0.02, 0.02)
    points = np.rint(rows * POINT_STEPS).astype(np.int16)
    whitening = Whitening.of(*moments_of(points), len(points), shrinkage=1e-4)
    white = whitening.apply(points)
    # The vote is right on 7 of 10 images.
    wrong = generator.random(800) < 0.3
    vote = np.where((truth ^ wrong)[:, None] == [0, 1], 0.8, 0.2)
    probs = vote
    for _ in range(8):
        shares = shares_of(probs)
        means = ClassMeans.of(
            class_sums(white, shares), shares.sum(axis=0), concentration=20.0, prior_power=0.5
        )
        probs = anchored(vote, means.probs(white), 0.5)
    before, after = ((p.argmax(axis=1) == truth).mean() for p in (vote, probs))
    assert before < 0.75
    assert after > 0.93
