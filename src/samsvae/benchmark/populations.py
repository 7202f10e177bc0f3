"""Cells as clouds of points, in the space of principal components: what means do not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from samsvae.benchmark.metrics.distances import median_distance
from samsvae.benchmark.metrics.records import Clouds
from samsvae.benchmark.predictor import Predictor
from samsvae.data.expression import Expression, normalised
from samsvae.data.screen import Screen
from samsvae.types import Scale

_COMPONENTS = 30
_FIT = 5000
"""Most cells that the principal components are found from."""


class Space:
    """Principal components of expression, found from training cells.

    Parameters
    ----------
    screen
        The whole screen.
    values
        Its expression on the scale, `cell gene`.
    scale
        The scale.
    n_cells
        Most cells of a cloud.
    seed
        Of all that is drawn.
    """

    def __init__(
        self, screen: Screen, values: Expression, *, scale: Scale, n_cells: int, seed: int
    ) -> None:
        from sklearn.decomposition import PCA  # slow to import, and needed here alone

        self.screen, self.values = screen, values
        self.scale, self.n_cells, self.seed = scale, n_cells, seed
        self.train = np.asarray(screen.split) == "train"
        rows = self.some(np.flatnonzero(self.train), _FIT)
        k = min(_COMPONENTS, min(len(rows), values.shape[1]) - 1)
        pca = PCA(k, svd_solver="arpack", random_state=seed) if k > 0 else None
        self.components = pca and pca.fit(values[rows])
        control = self.of(self.some(np.flatnonzero(self.train & screen.is_control)))
        several = control is not None and len(control) > 1
        self.kernel = median_distance(np.asarray(control)) if several else np.nan

    def some(self, rows: np.ndarray, most: int | None = None) -> np.ndarray:
        """Return at most so many of these cells, by position."""
        most = most or self.n_cells
        if len(rows) <= most:
            return rows
        return np.sort(np.random.default_rng(self.seed).choice(rows, most, replace=False))

    def of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return cells of the screen, by position, `cell component`; None without any."""
        return self._projected(self.values[rows]) if len(rows) else None

    def points(self, cells: np.ndarray) -> np.ndarray:
        """Return all cells of the screen, `cell component`; NaN but for these, `cell` boolean."""
        rows = np.flatnonzero(cells)
        parts = [self._projected(values) for _, values in self.values.at(rows).blocks()]
        points = np.full((len(cells), parts[0].shape[1]), np.nan)
        points[rows] = np.concatenate(parts)
        return points

    def predicted(self, predictor: Predictor, conditions: Sequence[str]) -> Clouds:
        """Return cells that a predictor expects under conditions.

        None: it predicts means alone, or has no answer for the condition. Where it expects the
        same cells, they are held once.
        """
        known = [name for name in conditions if predictor.answers_for(name)]
        found: dict[str, np.ndarray | None] = {}
        before = points = None
        drawn = predictor.cells(known, n_cells=self.n_cells, seed=self.seed) if known else ()
        for name, counts in zip(known, drawn, strict=True):
            if counts is not before:
                before, points = counts, self._predicted(counts)
            found[name] = points
        return Clouds([found.get(name) for name in conditions], self.kernel)

    def _predicted(self, counts: sp.csr_matrix | np.ndarray | None) -> np.ndarray | None:
        if counts is None or not counts.shape[0]:
            return None
        return self._projected(normalised(sp.csr_matrix(counts), self.scale))

    def _projected(self, values: sp.csr_matrix) -> np.ndarray:
        if self.components is None:  # a single gene is its own component
            return values.toarray()
        projected: np.ndarray = self.components.transform(values)
        return projected
