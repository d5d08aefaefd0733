"""Linear heads fitted to soft targets: the target of a row is a distribution over the classes.

The problem is that of `heads.py`, with the cross entropy to a distribution where a class stood, so
it is convex as well. scikit-learn takes one class a row; here L-BFGS (Liu and Nocedal, 1989, as
scipy has it) is given loss and gradient. Products of matrices take nearly all of the time and are
float32; sums over rows that end in one number are float64.
"""

from dataclasses import dataclass

import numpy as np

from cotrain_dist.method.heads import (
    MAX_ITERATIONS,
    NEVER,
    Floats,
    Head,
    Ints,
    Scaling,
    Singles,
    basis_of,
    one_thread,
)

TOLERANCE = 1e-5
"""Largest entry of the gradient at which a fit ends, as in `heads.py`."""

LEAST_GAIN = 1e-8
"""A step that lowers the loss by less ends a fit too: float32 tells no more apart."""


def fit_soft_head(
    features: Floats,
    probs: Singles,
    penalty: float,
    scaling: Scaling,
    weights: Floats | None = None,
    start: Head | None = None,
) -> Head:
    """The head of the least penalized cross entropy to distributions.

    features: [N, F], at least one row. probs: [N, C], each row sums to 1. weights: [N], not all 0,
    the factor on each row's loss; None is 1. start: a head to begin from, which changes the time
    and the last digits. A class without mass is never named. With one class a row the problem is
    that of `fit_head`.
    """
    with one_thread():
        return _fit_soft_head(features, probs, penalty, scaling, weights, start)


def _fit_soft_head(
    features: Floats,
    probs: Singles,
    penalty: float,
    scaling: Scaling,
    weights: Floats | None,
    start: Head | None,
) -> Head:
    shares = np.ones(len(features)) if weights is None else weights
    shares = shares / shares.sum()
    mass = shares @ probs
    present = np.flatnonzero(mass)
    weight = np.zeros((probs.shape[1], features.shape[1]))
    bias = np.full(probs.shape[1], NEVER)
    if len(present) == 1:  # nothing to tell apart
        bias[present] = 0.0
        return Head(weight, bias, 0.0, 0)
    scaled = (features - scaling.center) * scaling.factor
    # The solution lies in the span of the rows, as in `heads.py`.
    basis = basis_of(scaled) if len(scaled) < scaled.shape[1] else None
    problem = SoftProblem(
        rows=(scaled if basis is None else scaled @ basis).astype(np.float32),
        targets=probs[:, present].astype(np.float32),
        shares=shares,
        # Of two classes scikit-learn, in `fit_head`, penalizes the difference: twice as much.
        penalty=2.0 * penalty if len(present) == 2 else penalty,
    )
    first = _first_guess(start, present, mass, basis, scaling)
    own, offsets, loss, num_iterations = _solve(problem, first)
    weight[present] = (own if basis is None else own @ basis.T) * scaling.factor
    bias[present] = offsets - weight[present] @ scaling.center
    return Head(weight, bias, loss, num_iterations)


@dataclass(frozen=True)
class SoftProblem:
    """Rows [N, r], targets [N, P] of one dtype that rows of targets sum to 1 in, and a penalty.

    shares: [N] float64, the weight of each row; they sum to 1.
    """

    rows: Singles | Floats
    targets: Singles | Floats
    shares: Floats
    penalty: float

    def unpack(self, flat: Floats) -> tuple[Floats, Floats]:
        """Weights [P, r] and offsets [P] from one vector."""
        num_classes = self.targets.shape[1]
        return flat[:-num_classes].reshape(num_classes, -1), flat[-num_classes:]

    def loss_and_gradient(self, flat: Floats) -> tuple[float, Floats]:
        """The penalized loss of a head, as one vector, and its gradient in the same form."""
        weight, offsets = self.unpack(flat)
        dtype = self.rows.dtype
        # One matrix for logits, probabilities and residuals in turn: the products read it from the
        # cache.
        values = self.rows @ weight.T.astype(dtype) + offsets.astype(dtype)
        values -= values.max(axis=1, keepdims=True)
        expected = np.einsum("nc,nc->n", self.targets, values)
        np.exp(values, out=values)
        totals = values.sum(axis=1, keepdims=True)
        loss = float(self.shares @ (np.log(totals[:, 0]) - expected))
        values /= totals
        values -= self.targets
        values *= self.shares[:, None].astype(dtype)
        own = values.T @ self.rows + self.penalty * weight
        gradient = np.concatenate([own.ravel(), values.sum(axis=0, dtype=np.float64)])
        return loss + self.penalty_of(weight), gradient

    def penalty_of(self, weight: Floats) -> float:
        """What the loss of weights [P, r] is raised by."""
        return self.penalty / 2.0 * float(np.vdot(weight, weight))


def _first_guess(
    start: Head | None, present: Ints, mass: Floats, basis: Floats | None, scaling: Scaling
) -> Floats:
    """Where the solver begins: classes by their mass alone, or the given head."""
    num_dimensions = len(scaling.center) if basis is None else basis.shape[1]
    weight, offsets = np.zeros((len(present), num_dimensions)), np.log(mass[present])
    if start is not None:
        known = start.bias[present] > NEVER / 2
        given = start.weight[present[known]]
        weight[known] = (given if basis is None else given @ basis) / scaling.factor
        offsets[known] = start.bias[present[known]] + given @ scaling.center
    return np.concatenate([weight.ravel(), offsets])


def _solve(problem: SoftProblem, first: Floats) -> tuple[Floats, Floats, float, int]:
    """Weights [P, r], offsets [P], the loss without the penalty, and the iterations taken."""
    from scipy.optimize import minimize

    found = minimize(
        problem.loss_and_gradient,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": LEAST_GAIN},
    )
    weight, offsets = problem.unpack(found.x)
    return weight, offsets, float(found.fun) - problem.penalty_of(weight), int(found.nit)
