"""Distances between two clouds of cells: what means do not see."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist


def energy_distance(
    x: np.ndarray, y: np.ndarray, within: tuple[float, float] | None = None
) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|, the unbiased estimate from two sets of cells.

    0 in expectation for two sets of the same distribution, so it may be negative.

    Parameters
    ----------
    x, y
        `cell feature`, at least two cells each: else NaN.
    within
        `spread` of x and of y, where these are known.

    References
    ----------
    Peidli et al.: scPerturb: harmonized single-cell perturbation data, Nature Methods 2024
    (E-distance, there of squared Euclidean distances).
    Szekely, Rizzo: Energy statistics, Journal of Statistical Planning and Inference 2013.

    Examples
    --------
    >>> cells = np.random.default_rng(0).normal(size=(50, 3))
    >>> energy_distance(cells, cells + 5) > 10
    True
    """
    if min(len(x), len(y)) < 2:
        return float("nan")
    own, other = within or (spread(x), spread(y))
    return 2 * float(cdist(x, y).mean()) - own - other


def spread(x: np.ndarray) -> float:
    """Return E|X - X'|: the mean distance between two different cells; NaN of fewer than two."""
    return _within(cdist(x, x)) if len(x) > 1 else float("nan")


def mmd(
    x: np.ndarray, y: np.ndarray, scale: float, within: tuple[float, float] | None = None
) -> float:
    """Return the squared maximum mean discrepancy, the unbiased estimate, of a Gaussian kernel.

    E k(X, X') + E k(Y, Y') - 2 E k(X, Y) with k(a, b) = exp(-|a - b|^2 / (2 scale^2)).

    Parameters
    ----------
    x, y
        `cell feature`, at least two cells each: else NaN.
    scale
        Of the kernel, in the units of the features; NaN, or 0: there is no answer.
    within
        `likeness` of x and of y, where these are known.

    References
    ----------
    Gretton et al.: A kernel two-sample test, JMLR 2012.
    """
    if min(len(x), len(y)) < 2 or not scale > 0:
        return float("nan")

    own, other = within or (likeness(x, scale), likeness(y, scale))
    return own + other - 2 * float(_kernel(x, y, scale).mean())


def likeness(x: np.ndarray, scale: float) -> float:
    """Return E k(X, X') of two different cells; NaN of fewer than two, or without a scale."""
    if len(x) < 2 or not scale > 0:
        return float("nan")
    return _within(_kernel(x, x, scale) - np.eye(len(x)))


def _kernel(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    values: np.ndarray = np.exp(-cdist(a, b, "sqeuclidean") / (2 * scale**2))
    return values


def median_distance(x: np.ndarray) -> float:
    """Return the median distance between cells: the usual scale of a Gaussian kernel."""
    return float(np.median(cdist(x, x)[np.triu_indices(len(x), 1)]))


def _within(values: np.ndarray) -> float:
    """Return the mean over pairs of different cells; the diagonal is 0."""
    n = len(values)
    return float(values.sum() / (n * (n - 1)))
