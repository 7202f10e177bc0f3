"""What training cells show on average: all that baselines know."""

from __future__ import annotations

import numpy as np

from samsvae.data.expression import expression, group_means
from samsvae.data.screen import Screen
from samsvae.data.vocabulary import Vocabulary
from samsvae.types import Scale

_SCALES: tuple[Scale, ...] = ("log", "normalized", "mean")


class Means:
    """Differences of training conditions from control, each from the controls of its batches."""

    def __init__(self, train: Screen, scale: Scale) -> None:
        self.scale = scale
        values = expression(train, scale)
        n_batches = int(train.batch.max()) + 1
        control = train.is_control
        of_batch = group_means(values[control], train.batch[control], n_batches)
        kinds = np.unique(train.condition[~control])
        self.conditions = [train.condition_names[i] for i in kinds]
        perturbed = ~control
        n_conditions = kinds.max() + 1
        mean = group_means(values[perturbed], train.condition[perturbed], n_conditions)[kinds]
        # mu_0 of a condition: control means of the batches, weighted as the condition's cells are.
        place = np.searchsorted(kinds, train.condition[perturbed])
        cells = np.zeros((len(kinds), n_batches))
        np.add.at(cells, (place, train.batch[perturbed]), 1)
        self.cells = cells.sum(1)
        known = np.nan_to_num(of_batch)  # a batch without controls has no perturbed cells either
        self.delta = mean - (cells / self.cells[:, None]) @ known
        self.mean = self.delta.mean(0)
        self._position = {name: i for i, name in enumerate(self.conditions)}

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
