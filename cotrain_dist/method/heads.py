"""Linear heads on fixed features: multinomial logistic regression with an L2 penalty.

A convex problem, so a fit has no rate, no epochs and no random draw: from the same rows every rank
of every world gets the same head. Features are centered and scaled by two numbers per head, which
are folded back into its weights: a head applies to the features as the backbone gives them.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

PENALTIES = tuple(10.0**power for power in (-4.5, -4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0))
"""What cross-validation chooses from: factors on half the squared norm of the weights, beside the
mean loss of an image whose features have a mean squared norm of 1."""

NUM_FOLDS = 5

NEVER = -1e4
"""Logit of a class without a labeled image: softmax gives it a probability of 0."""

MAX_FOLD_ROWS = 2000
"""Rows that cross-validation looks at; a penalty is one on the mean loss, so it serves more."""

MAX_ITERATIONS = 500

LARGEST_LOSS = float(-np.log(1e-3))
"""Of a row in cross-validation: one that was called by another name with certainty."""


@dataclass(frozen=True)
class Scaling:
    """Features become (features - center) * factor: center [F], factor a number."""

    center: Floats
    factor: float


@dataclass(frozen=True)
class Head:
    """logits = features @ weight.T + bias, on features as the backbone gives them.

    weight: [C, F] float64. bias: [C] float64.
    """

    weight: Floats
    bias: Floats
    loss: float
    """Mean over the rows, weighted, without the penalty."""
    num_iterations: int


def scaling_of(features: Floats) -> Scaling:
    """The scaling after which rows [N, F] have a mean of 0 and a mean squared norm of 1."""
    center = features.mean(axis=0)
    norm = float(((features - center) ** 2).sum(axis=1).mean())
    return Scaling(center, 1.0 / np.sqrt(norm) if norm > 0.0 else 1.0)


def one_thread() -> Any:
    """A context in which BLAS has one thread."""
    # The matrices are small: threads of a BLAS wait for each other (a fit beside another program
    # took 30 times as long with two), and their sums differ in the last bits.
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def fit_head(
    features: Floats,
    targets: Ints,
    num_classes: int,
    penalty: float,
    scaling: Scaling,
    weights: Floats | None = None,
) -> Head:
    """The head of the least penalized loss on rows [N, F] with targets [N].

    weights: [N], the factor on each row's loss; None is 1. A class without a row is never named.
    """
    with one_thread():
        return _fit_head(features, targets, num_classes, penalty, scaling, weights)


def _fit_head(
    features: Floats,
    targets: Ints,
    num_classes: int,
    penalty: float,
    scaling: Scaling,
    weights: Floats | None,
) -> Head:
    scaled = (features - scaling.center) * scaling.factor
    # The solution lies in the span of the rows: with fewer rows than features, the same problem in
    # as many dimensions as there are rows has the same answer and takes a fraction of the time.
    basis = basis_of(scaled)
    reduced = scaled @ basis
    present = np.unique(targets)
    weight = np.zeros((num_classes, features.shape[1]))
    bias = np.full(num_classes, NEVER)
    if len(present) == 1:  # nothing to tell apart
        bias[present] = 0.0
        return Head(weight, bias, 0.0, 0)
    own, offsets, num_iterations = _solve(reduced, targets, penalty, weights)
    weight[present] = own @ basis.T * scaling.factor
    bias[present] = offsets - weight[present] @ scaling.center
    logits = reduced @ own.T + offsets
    losses = log_sum_exp(logits) - logits[np.arange(len(targets)), present.searchsorted(targets)]
    return Head(weight, bias, float(np.average(losses, weights=weights)), num_iterations)


def basis_of(rows: Floats) -> Floats:
    """Orthonormal columns [F, r] that span the rows [N, F]; all directions where N is larger."""
    num_rows, num_features = rows.shape
    if num_rows >= num_features:
        return np.eye(num_features)
    return np.linalg.qr(rows.T)[0]


def _solve(
    rows: Floats, targets: Ints, penalty: float, weights: Floats | None
) -> tuple[Floats, Floats, int]:
    """Weights [P, r] and offsets [P] of the P classes that occur, and the iterations taken."""
    total = len(rows) if weights is None else float(weights.sum())
    model = _regression(tolerance=1e-5).set_params(C=1.0 / (penalty * total))
    with _quiet():
        model.fit(rows, targets, sample_weight=weights)
    own, offsets = model.coef_, model.intercept_
    if len(own) == 1:  # of two classes the library gives the difference alone
        own, offsets = np.concatenate([-own, own]) / 2, np.concatenate([-offsets, offsets]) / 2
    return own, offsets, int(np.max(model.n_iter_))


def _regression(*, tolerance: float, warm_start: bool = False) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=MAX_ITERATIONS, tol=tolerance, warm_start=warm_start)


@contextmanager
def _quiet() -> Iterator[None]:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # A head near its optimum is as good: what counts is that all ranks stop at one point.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # With a label or two per class it asks whether the targets are meant as numbers.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        yield


def log_sum_exp(logits: Floats) -> Floats:
    """Logarithm of the sum of exponentials, [N, C] -> [N]."""
    top = logits.max(axis=1)
    total: Floats = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return total


def choose_penalty(
    features: Floats,
    targets: Ints,
    num_classes: int,
    scaling: Scaling,
    seed: int,
    candidates: Sequence[float] = PENALTIES,
) -> float:
    """The penalty whose heads have the smallest loss on rows that they have not seen.

    Cross-validation over labeled rows alone, in folds that every class is spread over. By the loss,
    since with few rows the number of right ones is mostly chance. With one row per class nothing
    can be held out: the middle candidate.
    """
    if len(targets) > MAX_FOLD_ROWS:
        some = np.random.default_rng(seed).permutation(len(targets))[:MAX_FOLD_ROWS]
        features, targets = features[some], targets[some]
    folds = folds_of(targets, seed)
    if folds.max(initial=0) == 0:
        return candidates[len(candidates) // 2]
    with one_thread():
        scaled = (features - scaling.center) * scaling.factor
        # Single precision: what counts is which of eight losses is the smallest.
        rows: Singles = (scaled @ basis_of(scaled)).astype(np.float32)
        losses = [
            _losses_of_path(rows, targets, folds == fold, candidates)
            for fold in range(int(folds.max()) + 1)
        ]
    return candidates[int(np.argmin(np.sum(losses, axis=0)))]


def _losses_of_path(
    rows: Singles, targets: Ints, held: NDArray[np.bool_], candidates: Sequence[float]
) -> Floats:
    """Sum of the losses of the rows held out, for each candidate; [P].

    rows: [N, r], scaled. From the largest penalty to the smallest, each fit begins where the one
    before has ended: a fraction of the iterations.
    """
    present = np.unique(targets[~held])
    # A class whose rows are all held out would have a loss without bound.
    losses: Floats = np.full((len(candidates), int(held.sum())), LARGEST_LOSS)
    known = np.flatnonzero(np.isin(targets[held], present))
    if len(present) == 1:  # nothing to tell apart
        losses[:, known] = 0.0
        return np.asarray(losses.sum(axis=1))
    places = present.searchsorted(targets[held][known])
    model, total = _regression(tolerance=1e-4, warm_start=True), float((~held).sum())
    for place in np.argsort(candidates)[::-1]:
        model.set_params(C=1.0 / (candidates[place] * total))
        with _quiet():
            model.fit(rows[~held], targets[~held])
        probs = model.predict_log_proba(rows[held][known])
        losses[place, known] = np.minimum(-probs[np.arange(len(known)), places], LARGEST_LOSS)
    return np.asarray(losses.sum(axis=1))


def held_out_logits(
    features: Floats, targets: Ints, num_classes: int, penalty: float, scaling: Scaling, seed: int
) -> Floats | None:
    """Logits of rows [N, F] under heads that have not seen them, [N, C].

    In the folds of `folds_of`. A class whose only row is held out has the logit NEVER there. None
    where no class has two rows.
    """
    folds = folds_of(targets, seed)
    if folds.max(initial=0) == 0:
        return None
    logits = np.empty((len(targets), num_classes))
    with one_thread():
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            head = _fit_head(features[~held], targets[~held], num_classes, penalty, scaling, None)
            logits[held] = features[held] @ head.weight.T + head.bias
    return logits


def held_out_probs(
    features: Floats, targets: Ints, num_classes: int, penalty: float, scaling: Scaling, seed: int
) -> Floats | None:
    """Softmax of `held_out_logits`, [N, C]; None where they are."""
    logits = held_out_logits(features, targets, num_classes, penalty, scaling, seed)
    if logits is None:
        return None
    probs: Floats = np.exp(logits - log_sum_exp(logits)[:, None])
    return probs


def folds_of(targets: Ints, seed: int) -> Ints:
    """The fold of each row, [N]: the rows of a class go round the folds, from a keyed start.

    At most NUM_FOLDS folds, and no more than the largest class has rows.
    """
    generator = np.random.default_rng(seed)
    largest = int(np.unique(targets, return_counts=True)[1].max())
    num_folds = min(NUM_FOLDS, largest)
    folds = np.zeros(len(targets), dtype=np.int64)
    if num_folds < 2:
        return folds
    start = 0
    for target in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == target))
        folds[members] = (start + np.arange(len(members))) % num_folds
        start += len(members)  # so that folds stay even where classes are small
    return folds
