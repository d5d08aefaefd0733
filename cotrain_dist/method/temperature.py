"""Temperature scaling: one number that makes a model's confidence agree with its accuracy.

Guo et al., "On Calibration of Modern Neural Networks" (2017, arXiv 1706.04599): softmax(z / t) with
the t of the least loss on labeled rows that the model has not seen. It changes no top class.
"""

import math

import numpy as np
from torch import Tensor

from cotrain_dist.method.heads import NEVER, log_sum_exp

LEAST, LARGEST = 0.05, 20.0
"""Limits of a temperature. Rows that are all right would have one of 0, all wrong one of infinity.
"""


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The t in [LEAST, LARGEST] with the least mean cross entropy of softmax(logits / t).

    logits: [n, C] float, of rows that the model has not learned; targets: [n] int64. Rows whose
    class the model cannot name (its logit is `heads.NEVER`) are left out: no t would help them. 1.0
    where no t is better: without rows, with one class, and where a logit is not finite.
    """
    from scipy.optimize import minimize_scalar

    # numpy: a sum of torch's depends on the number of threads.
    rows, places = logits.double().numpy(), targets.numpy()
    if not np.isfinite(rows).all():
        return 1.0
    named = rows[np.arange(len(rows)), places] > NEVER / 2
    rows, places = rows[named], places[named]
    if not len(rows):
        return 1.0
    # In the logarithm of t: its scale is one of factors, and the loss has one minimum there as it
    # has in 1 / t, in which it is convex.
    shifted = rows - rows[np.arange(len(rows)), places][:, None]

    def loss(log_t: float) -> float:
        return float(log_sum_exp(shifted / math.exp(log_t)).mean())

    bounds = math.log(LEAST), math.log(LARGEST)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    # The method comes near to its bounds and never tries them.
    return math.exp(min((0.0, *bounds, float(found.x)), key=loss))
