"""Populations of cells, and distances between two of them: what means do not show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.distance import cdist


@dataclass(frozen=True, eq=False)
class CellPopulations:
    """Cells of conditions as points in the space of a few principal components."""

    cells: list[np.ndarray | None]
    """By condition, `cell component`; None: there are none, or means alone are predicted."""
    bandwidth: float
    """Of a Gaussian kernel in this space; NaN or 0: there is none."""

    @cached_property
    def spread(self) -> list[float]:
        """By condition: mean distance between two of its cells."""
        return self._of_each(mean_distance)

    @cached_property
    def similarity(self) -> list[float]:
        """By condition: mean kernel of two of its cells."""
        return self._of_each(lambda cells: mean_kernel(cells, self.bandwidth))

    def _of_each(self, statistic: Callable[[np.ndarray], float]) -> list[float]:
        """Return a statistic of each condition, computed once for cells that several share."""
        values: list[float] = []
        before = None
        for cells in self.cells:
            if cells is None:
                values.append(float("nan"))
            else:
                values.append(values[-1] if cells is before else statistic(cells))
            before = cells
        return values


def energy_distance(
    x: np.ndarray, y: np.ndarray, within: tuple[float, float] | None = None
) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|, the unbiased estimate from two sets of cells.

    0 in expectation for two sets of the same distribution, so it may be negative.

    NaN unless x and y, `cell feature`, have at least two cells each. `within`: `mean_distance` of x
    and of y, if they are already computed.

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
    of_x, of_y = within or (mean_distance(x), mean_distance(y))
    return 2 * float(cdist(x, y).mean()) - of_x - of_y


def mmd(
    x: np.ndarray, y: np.ndarray, bandwidth: float, within: tuple[float, float] | None = None
) -> float:
    """Return the squared maximum mean discrepancy, the unbiased estimate, of a Gaussian kernel.

    E k(X, X') + E k(Y, Y') - 2 E k(X, Y) with k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)).

    NaN unless x and y, `cell feature`, have at least two cells each and the bandwidth is above 0.
    `within`: `mean_kernel` of x and of y, if they are already computed.

    References
    ----------
    Gretton et al.: A kernel two-sample test, JMLR 2012.
    """
    if min(len(x), len(y)) < 2 or not bandwidth > 0:
        return float("nan")
    of_x, of_y = within or (mean_kernel(x, bandwidth), mean_kernel(y, bandwidth))
    return of_x + of_y - 2 * float(_kernel(x, y, bandwidth).mean())


def mean_distance(x: np.ndarray) -> float:
    """Return E|X - X'| of two different cells; NaN for fewer than two."""
    return _within(cdist(x, x)) if len(x) > 1 else float("nan")


def mean_kernel(x: np.ndarray, bandwidth: float) -> float:
    """Return E k(X, X') of two different cells; NaN for fewer than two, or without a bandwidth."""
    if len(x) < 2 or not bandwidth > 0:
        return float("nan")
    return _within(_kernel(x, x, bandwidth) - np.eye(len(x)))


def median_distance(x: np.ndarray) -> float:
    """Return the median distance between cells: the usual bandwidth of a Gaussian kernel."""
    return float(np.median(cdist(x, x)[np.triu_indices(len(x), 1)]))


def _kernel(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))


def _within(values: np.ndarray) -> float:
    """Return the mean over pairs of different cells; the diagonal is 0."""
    n = len(values)
    return float(values.sum() / (n * (n - 1)))
