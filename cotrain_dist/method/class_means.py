"""What the images of U say about each other: one direction per class, fitted to L and U by EM.

Each model's features are whitened by the covariance of all images that are learned from, labeled or
not, and scaled to length 1. A class is then a direction, and an image belongs to it the more, the
smaller the angle: a mixture of von Mises-Fisher distributions (Banerjee et al., JMLR 2005), one
component per class, fitted to few labels and many images by EM (Nigam et al., Machine Learning
2000). Both models' mixtures are fitted to one posterior, their vote; so each learns what the other
sees.

Whitening is what makes it work: in plain features the directions of the largest variance, which are
those of background and color, decide every angle (docs/recipe.md has the figures).

Points and shares are whole numbers, so that every sum over images is exact: it depends on no order,
no block and no number of ranks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Points = NDArray[np.int16]
Shares = NDArray[np.int64]

POINT_STEPS = 2**14
"""A length of 1 as a whole number. Products of two, summed over 2^24 images, stay below 2^53."""

SHARE_STEPS = 2**10
"""All of an image, as a share of classes."""

LEAST_PROB = 1e-12


def encode_roots(features: Singles) -> Points:
    """Features [n, F] after a square root of each size and scaling to length 1, as whole numbers.

    The root tames the few features that are very large in an image (the power transform of Hu et
    al. 2021, arXiv 2006.03806).
    """
    roots = np.sign(features) * np.sqrt(np.abs(features.astype(np.float64)))
    return _encode(_to_unit_length(roots))


def _to_unit_length(rows: Floats) -> Floats:
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(lengths, LEAST_PROB))


def _encode(rows: Floats) -> Points:
    return np.rint(rows * POINT_STEPS).astype(np.int16)


def moments_of(points: Points) -> tuple[Floats, Floats]:
    """Sums [F] and sums of products [F, F] of points [n, F]: whole numbers, exact in float64."""
    rows = points.astype(np.float64)
    return rows.sum(axis=0), rows.T @ rows


@dataclass(frozen=True)
class Whitening:
    """Points become (points - center) @ matrix: center [F], matrix [F, F]."""

    center: Floats
    matrix: Floats

    @classmethod
    def of(cls, total: Floats, products: Floats, num_points: int, shrinkage: float) -> "Whitening":
        """From the moments of all points. shrinkage: above 0, times the mean variance, is added to
        each direction's variance, so that those in which nothing varies are not blown up.
        """
        center = total / num_points
        values, vectors = np.linalg.eigh(products / num_points - np.outer(center, center))
        values = np.maximum(values, 0.0)
        return cls(center, vectors / np.sqrt(values + shrinkage * max(values.mean(), LEAST_PROB)))

    def apply(self, points: Points) -> Points:
        """Whitened points of length 1, as whole numbers; [n, F] -> [n, F]."""
        return _encode(_to_unit_length((points - self.center) @ self.matrix))


def shares_of(probs: Floats) -> Shares:
    """Class probabilities [n, C] as whole numbers of SHARE_STEPS."""
    return np.rint(probs * SHARE_STEPS).astype(np.int64)


def class_sums(points: Points, shares: Shares) -> Floats:
    """Sums of the points by class, each times its share: whole numbers, [C, F] exact in float64."""
    return np.asarray(shares.T.astype(np.float64) @ points.astype(np.float64))


@dataclass(frozen=True)
class ClassMeans:
    """One model's mixture. directions: [C, F], of length 1; log_prior: [C]; -inf leaves one out."""

    directions: Floats
    log_prior: Floats
    concentration: float

    @classmethod
    def of(
        cls, sums: Floats, shares: Shares, *, concentration: float, prior_power: float
    ) -> "ClassMeans":
        """From `class_sums` over all images, and their shares by class, [C].

        prior_power: 0..1. At 1 a class weighs as much as it has images; below, small classes weigh
        more than that, since a fit to few labels gives them too few.
        """
        counts = shares / SHARE_STEPS
        prior = (counts + 0.5) / (counts + 0.5).sum()
        log_prior = np.where(shares > 0, prior_power * np.log(prior), -np.inf)
        return cls(_to_unit_length(sums), log_prior, concentration)

    def probs(self, points: Points) -> Floats:
        """Class probabilities of points [n, F], [n, C]."""
        cosines = points.astype(np.float64) @ self.directions.T / POINT_STEPS
        return _softmax(self.concentration * cosines + self.log_prior)


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def anchored(vote: Floats, found: Floats, weight: float) -> Floats:
    """The geometric mean of what the models say and what the mixtures find, [n, C].

    weight: of the vote, 0..1. It keeps the classes where the labels have put them: EM alone moves
    to whatever groups the images fall into.
    """
    logs = weight * np.log(np.maximum(vote, LEAST_PROB))
    logs += (1.0 - weight) * np.log(np.maximum(found, LEAST_PROB))
    return _softmax(logs)
