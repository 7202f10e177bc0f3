"""Cells as points in the space of principal components, in which populations are compared."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from samsvae.benchmark.metrics.distances import CellPopulations, median_distance
from samsvae.data.expression import Expression, normalised, rows_of
from samsvae.data.screen import Screen
from samsvae.types import Scale

_COMPONENTS = 30
_MAX_FITTED = 5000
"""Cells that the principal components are computed from, at most."""


class PrincipalComponents:
    """Principal components of expression, from training cells of a screen.

    `values` are the expression of all its cells on the scale; a population has at most `n_cells`,
    drawn by the seed.
    """

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
