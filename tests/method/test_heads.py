"""Linear heads: against the optimum by hand, another solver, and in cases with nothing to learn."""

import numpy as np
import pytest
from scipy.optimize import minimize

from cotrain_dist.method.heads import (
    NEVER,
    PENALTIES,
    Scaling,
    choose_penalty,
    fit_head,
    folds_of,
    held_out_logits,
    held_out_probs,
    scaling_of,
)

PLAIN = Scaling(np.zeros(3), 1.0)


def clouds(num_per_class: int, num_features: int, seed: int = 0, spread: float = 1.0) -> tuple:
    """Three overlapping clouds of rows, [3 n, F], and their classes."""
    generator = np.random.default_rng(seed)
    centers = 2.0 * generator.normal(size=(3, num_features)) / np.sqrt(num_features)
    targets = np.repeat(np.arange(3), num_per_class)
    noise = spread * generator.normal(size=(3 * num_per_class, num_features))
    return centers[targets] + noise / np.sqrt(num_features) + 5.0, targets


def penalized_loss(flat: np.ndarray, rows: np.ndarray, targets: np.ndarray, *args: float) -> float:
    """The problem as the module's docstring states it: mean loss and half the squared norm."""
    penalty, weights = args[0], args[1] if len(args) > 1 else np.ones(len(rows))
    weight, bias = flat[:-3].reshape(3, -1), flat[-3:]
    logits = rows @ weight.T + bias
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(rows)), targets]
    return float(np.average(losses, weights=weights) + penalty / 2 * (weight**2).sum())


@pytest.mark.parametrize(("num_per_class", "num_features"), [(20, 4), (3, 30)])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_head_is_the_optimum_that_another_solver_finds(
    num_per_class: int, num_features: int, is_weighted: bool
) -> None:
    """With more rows than features, and with fewer, where the problem is solved in less space."""
    rows, targets = clouds(num_per_class, num_features)
    weights = np.linspace(0.2, 2.0, len(rows)) if is_weighted else np.ones(len(rows))
    scaling = scaling_of(rows)
    head = fit_head(rows, targets, 3, 0.01, scaling, weights if is_weighted else None)
    scaled = (rows - scaling.center) * scaling.factor
    found = minimize(
        penalized_loss,
        np.zeros(3 * num_features + 3),
        (scaled, targets, 0.01, weights),
        options={"maxiter": 5000, "gtol": 1e-7},
    )
    own = np.concatenate(
        [(head.weight / scaling.factor).ravel(), head.bias + head.weight @ scaling.center]
    )
    assert penalized_loss(own, scaled, targets, 0.01, weights) == pytest.approx(found.fun, abs=1e-5)
    logits = rows @ head.weight.T + head.bias
    expected = scaled @ found.x[:-3].reshape(3, -1).T + found.x[-3:]
    probs, others = (np.exp(v - v.max(1, keepdims=True)) for v in (logits, expected))
    np.testing.assert_allclose(
        probs / probs.sum(1, keepdims=True), others / others.sum(1, keepdims=True), atol=5e-3
    )


def test_scaling_by_hand() -> None:
    scaling = scaling_of(np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]]))
    np.testing.assert_allclose(scaling.center, [3.0, 2.0])
    assert scaling.factor == pytest.approx(1 / np.sqrt(8 / 3))
    assert scaling_of(np.ones((4, 2))).factor == 1.0


def test_a_class_without_a_row_is_never_named() -> None:
    rows, targets = clouds(5, 3)
    kept = targets != 1
    head = fit_head(rows[kept], targets[kept], 4, 0.01, scaling_of(rows))
    logits = rows @ head.weight.T + head.bias
    assert set(logits.argmax(axis=1)) == {0, 2}
    assert (head.bias[[1, 3]] == NEVER).all()
    assert not head.weight[[1, 3]].any()
    assert (logits.argmax(axis=1)[kept] == targets[kept]).mean() > 0.9


def test_a_single_class_is_named_for_all() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3))
    head = fit_head(rows, np.full(4, 2), 5, 0.01, PLAIN)
    assert set((rows @ head.weight.T + head.bias).argmax(axis=1)) == {2}
    assert (head.loss, head.num_iterations) == (0.0, 0)


def test_a_row_of_weight_0_is_as_good_as_left_out() -> None:
    rows, targets = clouds(10, 3)
    weights = (np.arange(30) % 3 != 0).astype(float)
    one = fit_head(rows, targets, 3, 0.1, scaling_of(rows), weights)
    kept = weights > 0
    other = fit_head(rows[kept], targets[kept], 3, 0.1, scaling_of(rows))
    np.testing.assert_allclose(one.weight, other.weight, atol=2e-3)


def test_the_same_rows_give_the_same_bits() -> None:
    rows, targets = clouds(10, 40)
    heads = [fit_head(rows, targets, 3, 0.01, scaling_of(rows)) for _ in range(2)]
    assert heads[0].weight.tobytes() == heads[1].weight.tobytes()
    assert heads[0].bias.tobytes() == heads[1].bias.tobytes()


def test_the_penalty_grows_with_the_noise() -> None:
    """Clear classes need none; where rows say little, a strong one generalizes better."""
    chosen = []
    for spread in (0.1, 4.0):
        rows, targets = clouds(15, 10, spread=spread)
        chosen.append(choose_penalty(rows, targets, 3, scaling_of(rows), seed=0))
    assert chosen[0] < chosen[1]
    assert set(chosen) <= set(PENALTIES)


def test_with_one_row_per_class_nothing_is_held_out() -> None:
    rows, targets = clouds(1, 3)
    assert not folds_of(targets, 0).any()
    assert choose_penalty(rows, targets, 3, PLAIN, 0) == PENALTIES[len(PENALTIES) // 2]


@pytest.mark.parametrize("sizes", [(2, 9, 30), (1, 2), (5, 5, 5)])
def test_folds_spread_every_class(sizes: tuple[int, ...]) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    folds = folds_of(targets, seed=3)
    num_folds = min(5, max(sizes))
    assert set(folds) == set(range(num_folds))
    for target, size in enumerate(sizes):
        counts = np.bincount(folds[targets == target], minlength=num_folds)
        assert counts.max() - counts.min() <= 1, size
    totals = np.bincount(folds)
    assert totals.max() - totals.min() <= 1, "folds stay even where classes are small"
    assert (folds == folds_of(targets, seed=3)).all()
    assert len(targets) < 10 or (folds != folds_of(targets, seed=4)).any()


def test_held_out_rows_have_logits_of_heads_that_have_not_seen_them() -> None:
    rows, targets = clouds(6, 4)
    rows, targets = np.concatenate([rows, rows[:1]]), np.append(targets, 3)  # one alone
    scaling, folds = scaling_of(rows), folds_of(targets, seed=5)
    logits = held_out_logits(rows, targets, 4, 0.01, scaling, seed=5)
    assert logits is not None
    for fold in range(5):
        held = folds == fold
        head = fit_head(rows[~held], targets[~held], 4, 0.01, scaling)
        np.testing.assert_allclose(logits[held], rows[held] @ head.weight.T + head.bias)
    assert logits[-1, 3] == NEVER, "nobody has seen its class"
    probs = held_out_probs(rows, targets, 4, 0.01, scaling, seed=5)
    assert probs is not None
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probs, expected, atol=1e-12)


def test_with_one_row_per_class_there_are_no_held_out_logits() -> None:
    rows, targets = clouds(1, 3)
    assert held_out_logits(rows, targets, 3, 0.01, PLAIN, 0) is None
    assert held_out_probs(rows, targets, 3, 0.01, PLAIN, 0) is None
