"""Which cells a training step takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 128
"""Cells that lie together in a file, and are read at once."""
WINDOW = 2**14
"""Cells of as many blocks as are held in memory, and mixed."""


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
            self._epoch, self._order = epoch, self._drawn(epoch)
        return self._order

    def _drawn(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.n_cells)


class BlockOrder(EpochOrder):
    """The same for cells in a file, where reading each on its own would take long.

    Blocks of neighbouring cells come in random order; those of a window are read together, and
    their cells are mixed. With windows of all cells it is `EpochOrder`, but for the draws.

    Parameters
    ----------
    n_cells, seed
        As in `EpochOrder`.
    block
        Cells in a block.
    window
        Cells that are mixed, a multiple of `block`.

    >>> order = BlockOrder(10, seed=0, block=2, window=4)
    >>> sorted(order.of_step(0, 10).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self, n_cells: int, seed: int, *, block: int = BLOCK, window: int = WINDOW
    ) -> None:
        super().__init__(n_cells, seed)
        self.block, self.window = block, window

    def windows(
        self, step: int, batch_size: int, part: slice = slice(None)
    ) -> Iterator[np.ndarray]:
        """Yield the positions of cells from a step on, without end, in runs to be read at once.

        One after the other they are what `of_step` gives, or a part of each step's.
        """
        batch_size = min(batch_size, self.n_cells)
        taken = np.zeros(batch_size, bool)
        taken[part] = True
        first = step * batch_size
        epoch, place = divmod(first, self.n_cells)
        while True:
            order = self._drawn(epoch)  # not the kept one: a thread of its own may run this
            while place < self.n_cells:
                end = min(self.n_cells, (place // self.window + 1) * self.window)
                in_step = np.arange(first, first + end - place) % batch_size
                yield order[place:end][taken[in_step]]
                first, place = first + end - place, end
            epoch, place = epoch + 1, 0

    def _drawn(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        blocks = rng.permutation(-(-self.n_cells // self.block))
        order = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        order = order[order < self.n_cells]
        for start in range(0, self.n_cells, self.window):
            rng.shuffle(order[start : start + self.window])
        return order
