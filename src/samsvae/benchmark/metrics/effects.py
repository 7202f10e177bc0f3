"""Correlation and explained variance, of arrays and of means over genes.

Scores of predicted effects against the observed ones.

In the formulas a is a predicted effect and d the observed one, both differences from control (the
data's); p, q are conditions and g genes. What else a difference is taken from is in the name.

What combinations do beyond the sum of their parts.

How often the data fall into the intervals of predicted effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtri

from samsvae.benchmark.metrics.moments import Observed

_CONSTANT = 1e-12
"""A variance below this share of the second moment is 0."""


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Pearson correlation of two arrays; NaN where one is constant.

    >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 7.0])), 3)
    0.993
    """
    a, b = np.ravel(a) - np.mean(a), np.ravel(b) - np.mean(b)
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / norm) if norm > 0 else float("nan")


def correlation_per_condition(predicted: pd.DataFrame, true: pd.DataFrame) -> pd.Series:
    """Return the Pearson correlation over genes of each condition's effects, by condition."""
    values = [pearson(predicted.loc[name], true.loc[name]) for name in true.index]
    return pd.Series(values, true.index)


def paired_means(a: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the means over genes of a, d, a^2, d^2 and ad, `condition 5`."""
    a, d = np.asarray(a, float), np.asarray(d, float)
    return np.stack([a.mean(1), d.mean(1), (a * a).mean(1), (d * d).mean(1), (a * d).mean(1)], -1)


def pearson_of_means(means: np.ndarray) -> np.ndarray:
    """Return cov(a, d) / sqrt(var(a) var(d)): 0 for constant a, NaN for constant d."""
    a, d, aa, dd, ad = np.moveaxis(means, -1, 0)
    var_a, var_d = variance(a, aa), variance(d, dd)
    norm = np.sqrt(var_a * var_d)
    r = np.clip((ad - a * d) / np.where(norm == 0, 1, norm), -1, 1)
    return np.where(var_d == 0, np.nan, np.where(var_a == 0, 0, r))


def r2_of_means(means: np.ndarray) -> np.ndarray:
    """Return 1 - mean (a - d)^2 / var(d), NaN for constant d."""
    _, d, aa, dd, ad = np.moveaxis(means, -1, 0)
    return explained(aa - 2 * ad + dd, variance(d, dd))


def variance(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Return mean square - mean^2, exactly 0 where only rounding is left of it."""
    centred = square - mean**2
    return np.where(centred <= _CONSTANT * square, 0 * square, centred)


def explained(error: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return 1 - error / total, the variance that is explained; NaN where nothing varies."""
    return np.where(total == 0, np.nan, 1 - error / np.where(total == 0, 1, total))


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


def interaction(effects: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return what combinations do beyond the sum of their parts, `combination gene`.

    delta_AB - (delta_A + delta_B), in the order of `parts`; NaN where one of them is.

    Parameters
    ----------
    effects
        Conditions x genes.
    parts
        By combination, the conditions that it is made of.

    Raises
    ------
    KeyError
        If a condition is not among the effects.
    """
    expected = [effects.loc[list(names)].to_numpy(float).sum(0) for names in parts.values()]
    combined = effects.loc[list(parts)].to_numpy(float)
    return difference(combined, np.reshape(expected, combined.shape))


def coverage(
    lower: np.ndarray,
    upper: np.ndarray,
    ate: np.ndarray,
    observed: Observed,
    level: float = 0.9,
) -> np.ndarray:
    """Return the share of genes whose observed effect lies in the widened interval, `condition`.

    The posterior interval holds the true effect, to which the data add their sampling error: so it
    reaches sqrt((ate - lower)^2 + (z se)^2) below the ATE, and above alike, with the standard
    error se of the observed effect and z the normal quantile of the level (for an interval that
    does not hold the ATE: below and above the end that is next to it). Of a calibrated model that
    share is the level, whatever the number of cells.

    Genes without a standard error (or with 0: nothing was seen of them) are left out. NaN for a
    condition without an interval, or without such genes.

    Parameters
    ----------
    lower, upper
        `condition gene`: ends of the central posterior interval of that level.
    ate
        `condition gene`: predicted effects.
    observed
        What the cells show.
    level
        Of the interval, such as 0.9.
    """
    seen = observed.standard_error > 0
    error = ndtri((1 + level) / 2) * observed.standard_error
    within = np.clip(ate, lower, upper)
    below, above = np.hypot(within - lower, error), np.hypot(upper - within, error)
    distance = observed.effect - within
    inside = (-below <= distance) & (distance <= above)
    n_seen, n_inside = seen.sum(1), (seen & inside).sum(1)
    unknown = (seen & np.isnan(below + above + distance)).any(1) | (n_seen == 0)
    return np.where(unknown, np.nan, n_inside / np.maximum(n_seen, 1))
