"""Where the counts of cells come from: memory now, files later.

Everything else that a batch holds (what cells received, library sizes, batches) takes a few bytes
per cell and is kept by `samsvae.data.screen.Screen`. Which cells are read is decided elsewhere, in
`samsvae.data.order`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from samsvae.data.rows import dense


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
