"""Effects of conditions in cells, on any scale: what baselines learn from, and how sure it is."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from samsvae.data.fold_changes import condition_effects, condition_fold_changes, precision
from samsvae.data.screen import Screen
from samsvae.types import Scale

_MEANS: WeakKeyDictionary[Screen, dict[Scale, Means]] = WeakKeyDictionary()


def means_of(cells: Screen, scale: Scale) -> Means:
    """Return the effects in some cells on a scale, computed once per screen."""
    cached = _MEANS.setdefault(cells, {})
    if scale not in cached:
        cached[scale] = Means(cells, scale)
    return cached[scale]


class Means:
    """Effects of the conditions of some cells: differences from control within batches."""

    def __init__(self, cells: Screen, scale: Scale) -> None:
        self.scale, self.unexpressed = scale, cells.unexpressed
        delta, weight = _weighted_effects(cells, scale)
        perturbed, n_cells = np.unique(cells.condition[~cells.is_control], return_counts=True)
        estimable = ~np.isnan(delta[perturbed]).any(1)  # in a batch with control cells
        rows = perturbed[estimable]
        self.conditions = [cells.condition_names[i] for i in rows]
        self.not_estimable = {cells.condition_names[i] for i in perturbed[~estimable]}
        self.effects, self.weight = delta[rows], weight[rows]
        self.cells_per_condition = n_cells[estimable]
        # Fold changes of few cells are mostly noise: they weigh by their precision.
        self.mean = np.average(self.effects, 0, self.weight if scale == "lfc" else None)
        self._row = {name: row for row, name in enumerate(self.conditions)}

    def of(self, condition: str) -> np.ndarray | None:
        """Return delta_p, `gene`; None for a condition without training cells."""
        row = self._row.get(condition)
        return None if row is None else self.effects[row]

    def n_cells(self, condition: str) -> int:
        """Return how many training cells a condition has."""
        row = self._row.get(condition)
        return 0 if row is None else int(self.cells_per_condition[row])


def _weighted_effects(cells: Screen, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Return effects and what their squared errors count for, `condition gene`.

    That is the number of cells or, of fold changes, the precision.
    """
    if scale == "lfc":
        change = condition_fold_changes(cells)
        return change.difference, precision(change.variance)
    n_cells = np.bincount(cells.condition, minlength=len(cells.condition_names))
    effects = condition_effects(cells, scale)
    return effects, np.broadcast_to(n_cells[:, None], effects.shape)
