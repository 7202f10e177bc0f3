"""Which cells a training step takes."""

from __future__ import annotations

import numpy as np


class EpochOrder:
    """Cells in a stream of permutations, one per epoch, cut in batches of equal size.

    What a step takes is a function of the step, so training can be resumed anywhere; every epoch
    takes each cell once.

    Parameters
    ----------
    n_cells
        How many there are.
    seed
        Same seed, same order.

    >>> order = EpochOrder(5, seed=0)
    >>> sorted(np.concatenate([order.of_step(step, 1) for step in range(5)]).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, n_cells: int, seed: int) -> None:
        self.n_cells, self.seed = n_cells, seed
        self._epoch: int | None = None  # whose permutation is kept: most steps lie in one epoch

    def of_step(self, step: int, batch_size: int) -> np.ndarray:
        """Return the positions of the cells of a step (all of them, where there are fewer)."""
        batch_size = min(batch_size, self.n_cells)
        first, last = step * batch_size, (step + 1) * batch_size
        epochs = range(first // self.n_cells, (last - 1) // self.n_cells + 1)
        starts = (max(0, first - epoch * self.n_cells) for epoch in epochs)
        ends = (last - epoch * self.n_cells for epoch in epochs)
        places = zip(epochs, starts, ends, strict=True)
        return np.concatenate([self._permutation(epoch)[i:j] for epoch, i, j in places])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.n_cells)
        return self._order
