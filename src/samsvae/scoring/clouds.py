"""Cells as clouds of points, in the space of principal components: what means do not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

from samsvae.baselines import Baseline, ConditionMean, NoChange, PerturbationMean
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimator import Estimator
from samsvae.evaluation.differential_expression import normalised
from samsvae.evaluation.distances import energy_distance, median_distance, mmd
from samsvae.evaluation.effect_metrics import Metric, first
from samsvae.types import Scale

_COMPONENTS = 30
_FIT = 5000
"""Most cells that the principal components are found from."""

Clouds: TypeAlias = Sequence[np.ndarray | None]
"""By condition, `cell component`; None: no prediction."""


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
        self, screen: Screen, values: sp.csr_matrix, *, scale: Scale, n_cells: int, seed: int
    ) -> None:
        from sklearn.decomposition import PCA  # slow to import, and needed here alone

        self.screen, self.values = screen, values
        self.scale, self.n_cells, self.seed = scale, n_cells, seed
        self.train = np.asarray(screen.split) == "train"
        rows = self.some(self.train, _FIT)
        k = min(_COMPONENTS, min(len(rows), values.shape[1]) - 1)
        pca = PCA(k, svd_solver="arpack", random_state=seed) if k > 0 else None
        self.components = pca and pca.fit(values[rows])
        control = self.control
        several = control is not None and len(control) > 1
        self.kernel = median_distance(np.asarray(control)) if several else np.nan

    @cached_property
    def control(self) -> np.ndarray | None:
        """Training cells of control."""
        return self.of(self.some(self.train & self.screen.is_control))

    @cached_property
    def perturbed(self) -> np.ndarray | None:
        """Training cells of all other conditions."""
        return self.of(self.some(self.train & ~self.screen.is_control))

    def some(self, cells: np.ndarray, most: int | None = None) -> np.ndarray:
        """Return the positions of at most so many of these cells, `cell` boolean."""
        rows, most = np.flatnonzero(cells), most or self.n_cells
        if len(rows) <= most:
            return rows
        return np.sort(np.random.default_rng(self.seed).choice(rows, most, replace=False))

    def of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return cells of the screen, by position, `cell component`; None without any."""
        return self._projected(self.values[rows]) if len(rows) else None

    def predicted(self, predictor: Estimator | Baseline, condition: str) -> np.ndarray | None:
        """Return cells that a predictor draws for a condition; None: it predicts means alone.

        Models simulate them, at observed library sizes. `NoChange` takes training cells of control,
        `PerturbationMean` of all perturbed ones, `ConditionMean` of the very condition.
        """
        if isinstance(predictor, Estimator):
            try:
                drawn = predictor.simulate([condition], n_cells=self.n_cells, seed=self.seed).X
            except InputError:  # a condition that it does not answer for
                return None
            return self._projected(normalised(sp.csr_matrix(drawn), self.scale))
        if isinstance(predictor, NoChange):
            return self.control
        if isinstance(predictor, PerturbationMean):
            return self.perturbed
        if isinstance(predictor, ConditionMean):
            own = self.screen.condition == self.screen.condition_names.index(condition)
            return self.of(self.some(self.train & own))
        return None

    def metrics(self) -> list[Metric[Any]]:
        """Return the distances of clouds, with this space's kernel."""
        return [
            Metric("e_distance", _of_each(energy_distance), first, "observed", best=0),
            Metric("mmd", _of_each(lambda x, y: mmd(x, y, self.kernel)), first, "observed", best=0),
        ]

    def _projected(self, values: sp.csr_matrix) -> np.ndarray:
        if self.components is None:  # a single gene is its own component
            return values.toarray()
        projected: np.ndarray = self.components.transform(values)
        return projected


def _of_each(
    distance: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[Any, Any], np.ndarray]:
    """Return the statistics of a distance: that of each condition's clouds, `condition 1`."""

    def statistics(ours: Clouds, theirs: Clouds) -> np.ndarray:
        return np.array(
            [
                [np.nan if x is None or y is None else distance(x, y)]
                for x, y in zip(ours, theirs, strict=True)
            ]
        )

    return statistics
