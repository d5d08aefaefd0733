"""Heads on soft targets: against heads on classes, repeated rows, and differences by hand."""

import math

import numpy as np
import pytest

from cotrain_dist.method.heads import NEVER, Head, Scaling, fit_head, scaling_of
from cotrain_dist.method.soft_heads import SoftProblem, fit_soft_head

PLAIN = Scaling(np.zeros(3), 1.0)


def clouds(num_per_class: int, num_features: int, num_classes: int = 3) -> tuple:
    """Overlapping clouds of rows, [n, F], their classes, and distributions that lean to these."""
    generator = np.random.default_rng(0)
    centers = 2.0 * generator.normal(size=(num_classes, num_features))
    targets = np.repeat(np.arange(num_classes), num_per_class)
    rows = centers[targets] + 2.0 * generator.normal(size=(len(targets), num_features)) + 5.0
    probs = generator.random((len(targets), num_classes)) + np.eye(num_classes)[targets]
    return rows, targets, (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)


def softmax_of(head: Head, rows: np.ndarray) -> np.ndarray:
    logits = rows @ head.weight.T + head.bias
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 3, 6])
@pytest.mark.parametrize(("num_per_class", "num_features"), [(30, 4), (3, 30)])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_with_one_class_a_row_it_is_the_head_on_classes(
    num_classes: int, num_per_class: int, num_features: int, is_weighted: bool
) -> None:
    """Of two classes as well, which scikit-learn solves as another problem."""
    rows, targets, _ = clouds(num_per_class, num_features, num_classes)
    weights = np.linspace(0.2, 2.0, len(rows)) if is_weighted else None
    one_hot = np.eye(num_classes, dtype=np.float32)[targets]
    scaling = scaling_of(rows)
    hard = fit_head(rows, targets, num_classes, 0.01, scaling, weights)
    soft = fit_soft_head(rows, one_hot, 0.01, scaling, weights)
    assert 0.01 < hard.loss == pytest.approx(soft.loss, abs=2e-4)
    np.testing.assert_allclose(softmax_of(soft, rows), softmax_of(hard, rows), atol=3e-3)
    np.testing.assert_allclose(soft.weight, hard.weight, atol=5e-3 * np.abs(hard.weight).max())


def test_a_distribution_is_worth_its_classes_as_weighted_rows() -> None:
    """One row toward (p, q, r) is three rows, one of each class, with weights p, q and r."""
    rows, _, probs = clouds(20, 4)
    weights = np.linspace(0.5, 1.5, len(rows))
    soft = fit_soft_head(rows, probs, 0.01, scaling_of(rows), weights)
    repeated, targets = np.repeat(rows, 3, axis=0), np.tile(np.arange(3), len(rows))
    each = (weights[:, None] * probs).ravel()
    hard = fit_head(repeated, targets, 3, 0.01, scaling_of(rows), each)
    assert soft.loss == pytest.approx(hard.loss, abs=1e-5)
    np.testing.assert_allclose(softmax_of(soft, rows), softmax_of(hard, rows), atol=1e-3)


def test_a_weight_is_worth_as_many_rows() -> None:
    rows, _, probs = clouds(8, 3)
    scaling, times = scaling_of(rows), np.arange(len(rows)) % 3
    weighted = fit_soft_head(rows, probs, 0.05, scaling, times.astype(float))
    repeated = fit_soft_head(np.repeat(rows, times, 0), np.repeat(probs, times, 0), 0.05, scaling)
    np.testing.assert_allclose(softmax_of(weighted, rows), softmax_of(repeated, rows), atol=1e-3)
    assert weighted.loss == pytest.approx(repeated.loss, abs=1e-5)


@pytest.mark.parametrize("num_dimensions", [1, 5])
def test_the_gradient_is_that_of_finite_differences(num_dimensions: int) -> None:
    generator = np.random.default_rng(1)
    targets, shares = generator.random((7, 4)), generator.random(7)
    problem = SoftProblem(
        rows=generator.normal(size=(7, num_dimensions)),
        targets=targets / targets.sum(axis=1, keepdims=True),
        shares=shares / shares.sum(),
        penalty=0.3,
    )
    flat = generator.normal(size=4 * num_dimensions + 4)
    _, gradient = problem.loss_and_gradient(flat)
    for place, step in enumerate(1e-6 * np.eye(len(flat))):
        above, below = (problem.loss_and_gradient(flat + side * step)[0] for side in (1.0, -1.0))
        assert gradient[place] == pytest.approx((above - below) / 2e-6, abs=1e-8)


def test_the_loss_by_hand() -> None:
    """Logits (ln 3, 0) toward (1/2, 1/2): ln 4 - ln 3 / 2, and half of 0.1 times ln 3 squared."""
    problem = SoftProblem(np.ones((1, 1)), np.full((1, 2), 0.5), np.ones(1), penalty=0.1)
    loss, gradient = problem.loss_and_gradient(np.array([math.log(3.0), 0.0, 0.0, 0.0]))
    assert loss == pytest.approx(math.log(4.0) - math.log(3.0) / 2 + 0.05 * math.log(3.0) ** 2)
    expected = [0.25 + 0.1 * math.log(3.0), -0.25, 0.25, -0.25]
    np.testing.assert_allclose(gradient, expected)


def test_without_anything_to_learn_from_rows_the_head_gives_the_mean_of_the_targets() -> None:
    probs = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], dtype=np.float32)
    head = fit_soft_head(np.ones((2, 3)), probs, 0.01, PLAIN, np.array([3.0, 1.0]))
    expected = [0.4375, 0.3125, 0.25]
    np.testing.assert_allclose(softmax_of(head, np.ones((1, 3)))[0], expected, atol=1e-4)
    by_hand = -sum(
        share * p * math.log(q)
        for share, row in zip((0.75, 0.25), probs.tolist(), strict=True)
        for p, q in zip(row, expected, strict=True)
    )
    assert head.loss == pytest.approx(by_hand, abs=1e-5)


def test_a_class_without_mass_is_never_named() -> None:
    rows, _, probs = clouds(10, 4)
    wide = np.zeros((len(rows), 5), dtype=np.float32)
    wide[:, [0, 2, 4]] = probs
    wide[:4] = [0.0, 1.0, 0.0, 0.0, 0.0]
    weights = (np.arange(len(rows)) >= 4).astype(float)
    head = fit_soft_head(rows, wide, 0.01, scaling_of(rows), weights)
    assert (head.bias[[1, 3]] == NEVER).all(), "class 1 has rows of weight 0 alone"
    assert not head.weight[[1, 3]].any()
    assert (head.bias[[0, 2, 4]] > NEVER / 2).all()
    assert set(softmax_of(head, rows).argmax(axis=1)) <= {0, 2, 4}


def test_a_single_class_is_named_for_all() -> None:
    probs = np.tile(np.array([0.0, 0.0, 1.0, 0.0], dtype=np.float32), (4, 1))
    rows = np.random.default_rng(0).normal(size=(4, 3))
    head = fit_soft_head(rows, probs, 0.01, PLAIN)
    assert set(softmax_of(head, rows).argmax(axis=1)) == {2}
    assert (head.loss, head.num_iterations) == (0.0, 0)


@pytest.mark.parametrize("num_features", [4, 100])
def test_the_same_rows_give_the_same_bits(num_features: int) -> None:
    rows, _, probs = clouds(10, num_features)
    heads = [fit_soft_head(rows.copy(), probs.copy(), 0.01, scaling_of(rows)) for _ in range(2)]
    assert heads[0].weight.tobytes() == heads[1].weight.tobytes()
    assert heads[0].bias.tobytes() == heads[1].bias.tobytes()
    assert heads[0].num_iterations > 3


@pytest.mark.parametrize("num_features", [4, 100])
def test_from_its_own_answer_a_fit_has_nothing_left_to_do(num_features: int) -> None:
    rows, _, probs = clouds(10, num_features)
    wide = np.concatenate([probs, np.zeros((len(rows), 1), dtype=np.float32)], axis=1)
    cold = fit_soft_head(rows, wide, 0.01, scaling_of(rows))
    warm = fit_soft_head(rows, wide, 0.01, scaling_of(rows), start=cold)
    assert warm.num_iterations <= 3 < cold.num_iterations
    np.testing.assert_allclose(softmax_of(warm, rows), softmax_of(cold, rows), atol=1e-4)


def test_a_start_that_does_not_know_a_class_learns_it() -> None:
    rows, targets, probs = clouds(10, 4)
    scaling = scaling_of(rows)
    start = fit_head(rows[targets < 2], targets[targets < 2], 3, 0.01, scaling)
    assert start.bias[2] == NEVER
    warm = fit_soft_head(rows, probs, 0.01, scaling, start=start)
    cold = fit_soft_head(rows, probs, 0.01, scaling)
    np.testing.assert_allclose(softmax_of(warm, rows), softmax_of(cold, rows), atol=1e-3)
    assert warm.num_iterations < 2 * cold.num_iterations, "not from a logit of NEVER"


def test_features_that_are_not_numbers_end_in_a_loss_that_is_none() -> None:
    rows, _, probs = clouds(10, 4)
    scaling = scaling_of(rows)
    rows[3, 2] = math.nan
    assert math.isnan(fit_soft_head(rows, probs, 0.01, scaling).loss)
