"""Populations of cells, as points, and distances between two of them: what means do not show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from samsvae.data.expression import Expression, normalised, rows_of
from samsvae.data.screen import Screen
from samsvae.types import Scale

_COMPONENTS = 30
_MAX_FITTED = 5000
"""Cells that the principal components are computed from, at most."""


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
        values: dict[int, float] = {id(None): float("nan")}
        for cells in self.cells:
            if cells is not None and id(cells) not in values:
                values[id(cells)] = statistic(cells)
        return [values[id(cells)] for cells in self.cells]


def energy_distance(
    x: np.ndarray, y: np.ndarray, within: tuple[float, float] | None = None
) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|, the unbiased estimate from two sets of cells.

    It may be negative; NaN unless x and y, `cell feature`, have at least two cells each. `within`:
    `mean_distance` of both, if known. See Szekely, Rizzo: Energy statistics, J. Stat. Plan.
    Inference 2013; the E-distance of scPerturb (Peidli et al., Nature Methods 2024) is of squared
    Euclidean distances.

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

    E k(X, X') + E k(Y, Y') - 2 E k(X, Y) with k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)); NaN
    unless x and y, `cell feature`, have at least two cells each and the bandwidth is above 0.
    `within`: `mean_kernel` of both, if known. See Gretton et al.: A kernel two-sample test, JMLR
    2012.
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


class PrincipalComponents:
    """Principal components of training cells' expression; populations have at most `n_cells`."""

    def __init__(
        self, screen: Screen, values: Expression, *, scale: Scale, n_cells: int, seed: int
    ) -> None:
        from sklearn.decomposition import PCA  # slow to import, and needed here alone

        self.values, self.scale, self.n_cells, self.seed = values, scale, n_cells, seed
        train = np.asarray(screen.split) == "train"
        rows = self.subsample(np.flatnonzero(train), _MAX_FITTED)
        k = min(_COMPONENTS, min(len(rows), values.shape[1]) - 1)
        pca = PCA(k, svd_solver="arpack", random_state=seed) if k > 0 else None
        self.components = pca and pca.fit(values[rows])
        control = self.subsample(np.flatnonzero(train & screen.is_control))
        self.bandwidth = np.nan
        if len(control) > 1:
            self.bandwidth = median_distance(self._project(values[control]))

    def subsample(self, rows: np.ndarray, n_max: int | None = None) -> np.ndarray:
        """Return at most so many of these cells, by position (by default `n_cells`)."""
        n_max = n_max or self.n_cells
        if len(rows) <= n_max:
            return rows
        return np.sort(np.random.default_rng(self.seed).choice(rows, n_max, replace=False))

    def points(self, cells: np.ndarray) -> np.ndarray:
        """Return `cell component` of a boolean selection of cells; NaN for the others."""
        rows = np.flatnonzero(cells)
        parts = [self._project(values) for _, values in self.values.at(rows).blocks()]
        points = np.full((len(cells), parts[0].shape[1]), np.nan)
        points[rows] = np.concatenate(parts)
        return points

    def populations(self, points: np.ndarray, group: np.ndarray, n_groups: int) -> CellPopulations:
        """Return the cells of each group, from `points` of all cells; group -1: left out."""
        rows = map(self.subsample, rows_of(group, n_groups))
        return CellPopulations([points[r] if len(r) else None for r in rows], self.bandwidth)

    def project(self, counts: sp.csr_matrix | np.ndarray | None) -> np.ndarray | None:
        """Return counts of cells as points, `cell component`; None without any cell."""
        if counts is None or not counts.shape[0]:
            return None
        return self._project(normalised(sp.csr_matrix(counts), self.scale))

    def _project(self, values: sp.csr_matrix) -> np.ndarray:
        if self.components is None:  # a single gene is its own component
            return values.toarray()
        return self.components.transform(values)
