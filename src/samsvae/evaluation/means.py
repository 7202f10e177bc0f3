"""What training cells show on average: all that baselines know."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from samsvae.data.expression import differences_from_control, expression
from samsvae.data.screen import Screen
from samsvae.data.vocabulary import Vocabulary
from samsvae.types import Scale

_SCALES: tuple[Scale, ...] = ("log", "normalized", "mean")


_MEANS: WeakKeyDictionary[Screen, dict[Scale, Means]] = WeakKeyDictionary()


def means_of(train: Screen, scale: Scale) -> Means:
    """Return what training cells show on a scale: taken once, as long as the cells are held."""
    known = _MEANS.setdefault(train, {})
    if scale not in known:
        known[scale] = Means(train, scale)
    return known[scale]


class Means:
    """Differences of training conditions from control, each from the controls of its batches."""

    def __init__(self, train: Screen, scale: Scale) -> None:
        self.scale = scale
        values, n_conditions = expression(train, scale), len(train.condition_names)
        delta = differences_from_control(
            values.blocks(), train.condition, train.batch, n_conditions
        )
        self.silent = train.silent
        kinds, n_cells = np.unique(train.condition[~train.is_control], return_counts=True)
        known = ~np.isnan(delta[kinds]).any(1)  # in a batch with control cells
        self.conditions = [train.condition_names[i] for i in kinds[known]]
        self.not_identified = {train.condition_names[i] for i in kinds[~known]}
        self.cells, self.delta = n_cells[known], delta[kinds[known]]
        self.mean = self.delta.mean(0)
        self._position = {name: i for i, name in enumerate(self.conditions)}

    def is_identified(self, condition: str) -> bool:
        """Whether a condition's cells, if it has any, can be compared with control."""
        return condition not in self.not_identified

    def of(self, condition: str) -> np.ndarray | None:
        """Return delta_p, `gene`; None for a condition without training cells."""
        position = self._position.get(condition)
        return None if position is None else self.delta[position]

    def n_cells(self, condition: str) -> int:
        """Return how many training cells a condition has."""
        position = self._position.get(condition)
        return 0 if position is None else int(self.cells[position])


def scales_of(vocabulary: Vocabulary) -> tuple[Scale, ...]:
    """Return the scales that means can be taken on, the usual one first."""
    return _SCALES if vocabulary.counts else _SCALES[2:]
