"""Scores of predicted effects against the observed ones.

In the formulas a is a predicted effect and d the observed one, both differences from control (the
data's); p, q are conditions and g genes. What else a difference is taken from is in the name.
"""

from __future__ import annotations

import numpy as np

from samsvae.metrics.correlation import explained, paired_means, pearson_of_means, variance
from samsvae.metrics.observed import Observed

_ROUNDING = 1e-12
"""A difference below this share of what it is taken from is 0."""


def root(statistics: np.ndarray) -> np.ndarray:
    """Return the root of the only statistic as the score."""
    return np.sqrt(statistics[..., 0])


def all_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the means over all genes."""
    return paired_means(predicted, observed.effect)


def top_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the means over each condition's genes of the largest |d|."""
    both = predicted, observed.effect
    return paired_means(*(np.take_along_axis(x, observed.top, 1) for x in both))


def pearson_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the correlation over genes of a and d."""
    return pearson_of_means(paired_means(predicted, observed.effect))


def pearson_from_perturbation_mean(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the correlation over genes of what is left of a and d beyond the mean predictor."""
    mean = observed.perturbation_mean
    return pearson_of_means(
        paired_means(difference(predicted, mean), difference(observed.effect, mean))
    )


def difference(effect: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return effect - other, exactly 0 for a condition where only rounding is left of it."""
    left = effect - other
    square = (np.asarray(effect, float) ** 2).mean(1, keepdims=True)
    return np.where((left**2).mean(1, keepdims=True) <= _ROUNDING * square, 0, left)


def absolute_error(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the mean over genes of |a - d|."""
    return np.abs(predicted - observed.effect).mean(1)


def squared_error(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the mean over genes of (a - d)^2, `condition 1`."""
    return mean_square(predicted, observed.effect)


def mean_square(a: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the mean over genes of (a - d)^2, `condition 1`."""
    return ((np.asarray(a, float) - d) ** 2).mean(1, keepdims=True)


def weighted_mse(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return sum_g w_pg (a_pg - d_pg)^2."""
    return (observed.specificity * (predicted - observed.effect) ** 2).sum(1)


def weighted_r2_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return 1 - sum_g w (a - d)^2 / sum_g w (d - sum_g w d)^2."""
    weights, d = observed.specificity, observed.effect
    total = variance((weights * d).sum(1), (weights * d * d).sum(1))
    return explained(weighted_mse(predicted, observed), total)
