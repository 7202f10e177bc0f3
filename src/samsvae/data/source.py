"""Where the counts of cells come from: memory, or a file.

Everything else that a batch holds (what cells received, library sizes, batches) takes a few bytes
per cell and is kept by `samsvae.data.screen.Screen`. Which cells are read is decided elsewhere, in
`samsvae.data.order`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.ahead import ahead
from samsvae.data.rows import dense
from samsvae.data.stored import StoredCounts


class Source(Protocol):
    """The counts of some cells, row by row."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and of genes."""

    def rows(self, positions: np.ndarray | slice) -> Tensor:
        """Return the counts of some cells, `cell gene`, float32, on the host."""


class MemorySource:
    """Counts that are held in memory.

    Parameters
    ----------
    counts
        `cell gene`, CSR.

    >>> MemorySource(sp.csr_matrix([[0, 2], [1, 0]], dtype=np.uint8)).rows(np.array([1]))
    tensor([[1., 0.]])
    """

    def __init__(self, counts: sp.csr_matrix) -> None:
        self.counts = counts

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and of genes."""
        n_cells, n_genes = self.counts.shape
        return n_cells, n_genes

    def rows(self, positions: np.ndarray | slice) -> Tensor:
        """Return the counts of some cells, `cell gene`, float32."""
        return dense(self.counts, positions)


class StoredSource:
    """Counts that stay in their file.

    Parameters
    ----------
    counts
        `cell gene`.
    """

    def __init__(self, counts: StoredCounts) -> None:
        self.counts = counts

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and of genes."""
        return self.counts.shape

    def rows(self, positions: np.ndarray | slice) -> Tensor:
        """Return the counts of some cells, `cell gene`, float32."""
        return dense(self.counts.read(positions), slice(None))


class AheadSource(StoredSource):
    """Counts in a file that are asked for in an order known beforehand: they are read before.

    Parameters
    ----------
    counts
        `cell gene`.
    windows
        Positions of the cells in that order, in runs that are read at once, without end.
    """

    def __init__(self, counts: StoredCounts, windows: Iterable[np.ndarray]) -> None:
        super().__init__(counts)
        self._windows = ahead((window, counts.read(window)) for window in windows)
        self._window, self._held = np.zeros(0, np.int64), sp.csr_matrix((0, self.shape[1]))

    def rows(self, positions: np.ndarray | slice) -> Tensor:
        """Return the counts of the next cells, `cell gene`, float32; they are those foretold."""
        every = range(self.shape[0])
        wanted = np.array(every[positions]) if isinstance(positions, slice) else positions
        parts = []
        while len(wanted):
            if not len(self._window):
                self._window, self._held = next(self._windows)
            n = min(len(wanted), len(self._window))
            if not np.array_equal(self._window[:n], wanted[:n]):
                raise ValueError("cells are asked for out of turn")
            start = self._held.shape[0] - len(self._window)
            parts.append(dense(self._held, slice(start, start + n)))
            self._window, wanted = self._window[n:], wanted[n:]
        return torch.cat(parts)

    def close(self) -> None:
        """Read no more: the thread that did ends."""
        self._windows.close()
