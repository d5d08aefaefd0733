"""How often a label is right, by its confidence: a logistic curve (Platt 1999).

"Probabilistic Outputs for Support Vector Machines", section 2.2: P(right) = s(slope * x + offset)
with s the logistic function and x the logit of the confidence. Two numbers, so that some tens of
images will do. A slope of 1 and an offset of 0 would leave the confidence as it is.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEAST_IMAGES = 20
"""With fewer, the curve would say more of them than of what it is asked about."""

CLIP = 1e-6
"""Confidences are clipped to [CLIP, 1 - CLIP]: the logit of 1 is infinite."""


@dataclass(frozen=True)
class Certainty:
    """The curve; it never falls with the confidence."""

    slope: float
    """0 or more."""
    offset: float
    num_images: int
    """Labeled images, not learned, that it was fitted to."""

    def of(self, confidences: Tensor) -> Tensor:
        """[n] in 0..1 -> [n] float64 in 0..1, the estimated probability of being right."""
        return (self.slope * _logits(confidences) + self.offset).sigmoid()


def fit_certainty(confidences: Tensor, is_right: Tensor) -> Certainty | None:
    """The curve of the least cross entropy; None for fewer than LEAST_IMAGES.

    confidences: [n] in 0..1, of images that were not learned; is_right: [n] bool. As Platt has it,
    right ones count as (r + 1) / (r + 2) and wrong ones as 1 / (w + 2), r and w their numbers, so
    that no estimate becomes 0 or 1.
    """
    from scipy.optimize import minimize

    if len(confidences) < LEAST_IMAGES:
        return None
    # numpy: a sum of torch's depends on the number of threads.
    x, right = _logits(confidences).numpy(), is_right.numpy()
    num_right = int(right.sum())
    num_wrong = len(right) - num_right
    targets = np.where(right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))

    def loss(curve: np.ndarray) -> tuple[float, np.ndarray]:
        z = curve[0] * x + curve[1]
        off = 1 / (1 + np.exp(-z)) - targets
        value = (np.logaddexp(0.0, z) - targets * z).mean()
        return float(value), np.array([(off * x).mean(), off.mean()])

    mean = float(targets.mean())
    start = np.array([0.0, math.log(mean / (1 - mean))])
    # Bounded: where the surer ones are right less often, chance has it so.
    found = minimize(
        *(loss, start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    return Certainty(float(found.x[0]), float(found.x[1]), len(x))


def _logits(confidences: Tensor) -> Tensor:
    return torch.logit(confidences.double(), eps=CLIP)
