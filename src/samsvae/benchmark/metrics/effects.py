"""Scores of predicted effects against observed ones: correlation, error, interaction, coverage.

In the formulas a is a predicted effect and d the observed one, both differences from control; p, q
are conditions and g genes. What else a difference is taken from is in the name of the metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

if TYPE_CHECKING:  # plots need `pearson`, and no torch
    from samsvae.benchmark.metrics.observed import Observed

_ROUNDING = 1e-12
"""A variance below this share of the second moment, or a difference below this share of what it is
taken from, is 0."""


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation along the last axis; NaN where either is constant.

    >>> pearson(np.array([[1.0, 2, 3], [1, 1, 1]]), np.array([2.0, 4, 7])).round(3)
    array([0.993,   nan])
    """
    a, b = (np.ascontiguousarray(x, float) for x in (a, b))
    varies = (np.ptp(a, axis=-1) > 0) & (np.ptp(b, axis=-1) > 0)
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies & (norm > 0), (a * b).sum(-1) / norm, np.nan)


def standardised(values: np.ndarray) -> np.ndarray:
    """Return rows minus their mean, of length 1: their products are correlations.

    A constant row is NaN.
    """
    centred = values - values.mean(-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    varies = (np.ptp(values, axis=-1, keepdims=True) > 0) & (length > 0)
    return np.divide(centred, length, out=np.full_like(centred, np.nan), where=varies)


def correlation_per_condition(predicted: pd.DataFrame, true: pd.DataFrame) -> pd.Series:
    """Return the Pearson correlation over genes of each condition's effects, matched by name."""
    matched = predicted.loc[true.index, true.columns]
    return pd.Series(pearson(matched.to_numpy(), true.to_numpy()), true.index)


def paired_means(a: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the means over genes of a, d, a^2, d^2 and ad, `condition 5`."""
    a, d = np.asarray(a, float), np.asarray(d, float)
    return np.stack([a.mean(1), d.mean(1), (a * a).mean(1), (d * d).mean(1), (a * d).mean(1)], -1)


def pearson_of_means(means: np.ndarray) -> np.ndarray:
    """Return cov(a, d) / sqrt(var(a) var(d)) of `paired_means`, which may be averaged.

    A constant prediction scores 0, as chance does; NaN for constant d, where nothing can be scored.
    """
    a, d, aa, dd, ad = np.moveaxis(means, -1, 0)
    var_a, var_d = variance(a, aa), variance(d, dd)
    norm = np.sqrt(var_a * var_d)
    r = np.clip((ad - a * d) / np.where(norm == 0, 1, norm), -1, 1)
    return np.where(var_d == 0, np.nan, np.where(var_a == 0, 0, r))


def r2_of_means(means: np.ndarray) -> np.ndarray:
    """Return 1 - mean (a - d)^2 / var(d) of `paired_means`; NaN for constant d."""
    _, d, aa, dd, ad = np.moveaxis(means, -1, 0)
    return explained(aa - 2 * ad + dd, variance(d, dd))


def variance(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Return mean square - mean^2, exactly 0 where only rounding is left of it."""
    centred = square - mean**2
    return np.where(centred <= _ROUNDING * square, 0 * square, centred)


def explained(error: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return 1 - error / total, the explained share of the variance; NaN where nothing varies."""
    return np.where(total == 0, np.nan, 1 - error / np.where(total == 0, 1, total))


def difference(effect: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return effect - other, exactly 0 for a condition where only rounding is left of it."""
    left = effect - other
    square = (np.asarray(effect, float) ** 2).mean(1, keepdims=True)
    return np.where((left**2).mean(1, keepdims=True) <= _ROUNDING * square, 0, left)


def all_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return `paired_means` over all genes."""
    return paired_means(predicted, observed.effect)


def top_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return `paired_means` over each condition's genes of the largest |d|."""
    both = predicted, observed.effect
    return paired_means(*(np.take_along_axis(x, observed.top, 1) for x in both))


def pearson_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the correlation over genes of a and d."""
    return pearson_of_means(paired_means(predicted, observed.effect))


def pearson_from_perturbation_mean(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the correlation over genes of a and d, each minus the mean training effect."""
    mean = observed.perturbation_mean
    return pearson_of_means(
        paired_means(difference(predicted, mean), difference(observed.effect, mean))
    )


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
    """Return sum_g w_pg (a_pg - d_pg)^2, with the weights `Observed.specificity`."""
    return (observed.specificity * (predicted - observed.effect) ** 2).sum(1)


def weighted_r2_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return 1 - sum_g w (a - d)^2 / sum_g w (d - sum_g w d)^2."""
    weights, d = observed.specificity, observed.effect
    total = variance((weights * d).sum(1), (weights * d * d).sum(1))
    return explained(weighted_mse(predicted, observed), total)


def interaction(effects: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return what combinations do beyond the sum of their parts, `combination gene`.

    delta_AB - (delta_A + delta_B), of effects (conditions x genes) and the parts of each
    combination, in their order; NaN where one of them is.
    """
    expected = [effects.loc[list(names)].to_numpy(float).sum(0) for names in parts.values()]
    combined = effects.loc[list(parts)].to_numpy(float)
    return difference(combined, np.reshape(expected, combined.shape))


def coverage(
    lower: np.ndarray, upper: np.ndarray, ate: np.ndarray, observed: Observed, level: float = 0.9
) -> np.ndarray:
    """Return the share of genes whose observed effect lies in the widened interval, `condition`.

    The posterior interval is of the true effect, to which the data add their sampling error. So it
    is widened to sqrt((ate - lower)^2 + (z se)^2) below the ATE, and likewise above, with the
    standard error se of the observed effect and z the normal quantile of the level. (An ATE outside
    its interval is replaced by the nearer end.) For a calibrated model that share is the level,
    whatever the number of cells.

    Genes without a standard error, or with 0, are left out. NaN for a condition without an
    interval, or without such genes. Arguments are `condition gene`.
    """
    has_error = observed.standard_error > 0
    error = ndtri((1 + level) / 2) * observed.standard_error
    center = np.clip(ate, lower, upper)
    below, above = np.hypot(center - lower, error), np.hypot(upper - center, error)
    distance = observed.effect - center
    inside = (-below <= distance) & (distance <= above)
    n_genes, n_inside = has_error.sum(1), (has_error & inside).sum(1)
    unknown = (has_error & np.isnan(below + above + distance)).any(1) | (n_genes == 0)
    return np.where(unknown, np.nan, n_inside / np.maximum(n_genes, 1))
