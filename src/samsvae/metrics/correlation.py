"""Correlation and explained variance, of arrays and of means over genes."""

from __future__ import annotations

import numpy as np
import pandas as pd

_ROUNDING = 1e-12
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
    return np.where(centred <= _ROUNDING * square, 0 * square, centred)


def explained(error: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return 1 - error / total, the variance that is explained; NaN where nothing varies."""
    return np.where(total == 0, np.nan, 1 - error / np.where(total == 0, 1, total))
