"""What a step takes: which cells, and where their batch is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.data.source import PrefetchedSource, StoredCounts
from samsvae.model.vae import PerturbationVAE
from samsvae.train.processes import Processes
from samsvae.train.step import draw_noise
from samsvae.types import Batch, ShiftNoise

BLOCK = 128
"""Neighbouring cells in a file that are read at once."""
WINDOW = 2**14
"""Cells that are held in memory, and shuffled, together."""


class EpochOrder:
    """Cells in a stream of permutations, one per epoch, cut into batches of equal size.

    The cells of a step depend on the step alone, so training can be resumed anywhere.

    >>> order = EpochOrder(5, seed=0)
    >>> sorted(np.concatenate([order.of_step(step, 1) for step in range(5)]).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, n_cells: int, seed: int) -> None:
        self.n_cells, self.seed = n_cells, seed
        self._epoch: int | None = None  # whose permutation is kept

    def of_step(self, step: int, batch_size: int) -> np.ndarray:
        """Return the positions of the cells of a step (all cells, if there are fewer)."""
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
    """An order for cells in a file, where reading each cell on its own would be slow.

    Blocks of neighbouring cells come in random order; the blocks of a window are read together, and
    their cells are shuffled. Both are numbers of cells, `window` a multiple of `block`.

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
        """Yield positions as `of_step` gives them from a step on, without end, window by window."""
        batch_size = min(batch_size, self.n_cells)
        taken = np.zeros(batch_size, bool)
        taken[part] = True
        first = step * batch_size
        epoch, place = divmod(first, self.n_cells)
        while True:
            order = self._drawn(epoch)  # not the kept one: another thread may run this
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


def order_of(loader: Loader, seed: int) -> EpochOrder:
    """Return the order in which steps take cells: by blocks, if they are in a file."""
    kind = EpochOrder if loader.screen.is_in_memory else BlockOrder
    return kind(len(loader.screen), seed)


@contextmanager
def batches_from(
    loader: Loader, order: EpochOrder, step: int, batch_size: int, part: slice = slice(None)
) -> Iterator[Callable[[Tensor], Batch]]:
    """Give the function that makes the batch (or a part) of a step's cells, from one step on."""
    counts = loader.screen.counts
    if isinstance(counts, StoredCounts):
        assert isinstance(order, BlockOrder)
        with closing(PrefetchedSource(counts, order.windows(step, batch_size, part))) as source:
            yield lambda rows: loader.batch(rows.cpu().numpy(), source)
    elif loader.is_resident:
        yield loader.resident.batch
    else:
        yield lambda rows: loader.batch(rows.numpy())


def noise_of_part(
    model: PerturbationVAE,
    loader: Loader,
    rows: Tensor,
    batch: Batch,
    n_particles: int,
    generator: torch.Generator,
    processes: Processes,
) -> tuple[ShiftNoise, Tensor]:
    """Draw the noise of some cells (`rows`), and return that of this process's part (`batch`)."""
    if processes.size == 1:  # else the generator is in the same state in all of them
        return draw_noise(model, batch, n_particles, generator)
    columns = loader.columns_of(rows.cpu().numpy())
    shifts = model.mechanism.noise(columns, n_particles, generator)
    basal = model.encoder.noise(len(rows), n_particles, generator)
    place = torch.searchsorted(columns, batch.dosage.columns).clamp(max=len(columns) - 1)
    part = ShiftNoise(*(noise.index_select(1, place) for noise in shifts))
    return part, basal[:, processes.part]
