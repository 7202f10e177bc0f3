"""Counts of cells, in memory or in a file, as rows of a minibatch.

Everything else that a batch holds (dosage, library sizes, batches) takes a few bytes per cell and
is kept by `samsvae.data.screen.Screen`. `samsvae.train.batches` decides which cells are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.counts import ROWS, as_counts, note_rounded
from samsvae.errors import InputError
from samsvae.ops.arrays import dense_rows
from samsvae.ops.parallel import prefetch
from samsvae.storage.anndata_files import StoredMatrix, selected_rows


class StoredCounts:
    """Counts in a file, `cell gene`: some of its cells and genes, in any order, by position.

    Indexing gives another view of the file; `read` gives counts. `rows` and `columns` are positions
    in the matrix, None for all; without `counts` values are real.
    """

    def __init__(
        self,
        matrix: StoredMatrix,
        *,
        counts: bool,
        rows: np.ndarray | None = None,
        columns: np.ndarray | None = None,
    ) -> None:
        self.matrix, self.counts = matrix, counts
        self._rows, self._columns = rows, columns
        n_cells, n_genes = matrix.shape
        self.shape = (
            n_cells if rows is None else len(rows),
            n_genes if columns is None else len(columns),
        )

    @classmethod
    def checked(cls, matrix: StoredMatrix, *, counts: bool) -> tuple[StoredCounts, np.ndarray]:
        """Read a matrix once to check it, and return its counts and the sum of each cell."""
        total, residue = np.zeros(matrix.shape[0]), 0.0
        starts = range(0, matrix.shape[0], ROWS)
        for start, rows in prefetch((start, matrix[start : start + ROWS]) for start in starts):
            block, deviation = as_counts(rows, matrix.where, counts=counts)
            total[start : start + ROWS] = np.asarray(block.sum(1), np.float64).ravel()
            residue = max(residue, deviation)
        note_rounded(matrix.where, residue)
        return cls(matrix, counts=counts), total

    def __getitem__(self, cells: Any) -> StoredCounts:
        rows = np.arange(self.shape[0], dtype=np.int64) if self._rows is None else self._rows
        return StoredCounts(
            self.matrix, counts=self.counts, rows=rows[cells], columns=self._columns
        )

    def genes(self, columns: np.ndarray) -> StoredCounts:
        """Return some genes, by position."""
        if self._columns is not None:
            columns = self._columns[columns]
        return StoredCounts(self.matrix, counts=self.counts, rows=self._rows, columns=columns)

    def read(self, cells: np.ndarray | slice = slice(None)) -> sp.csr_matrix:
        """Return the counts of some cells, by position, in the order given."""
        if self._rows is not None:
            rows = self._rows[cells]
        elif isinstance(cells, slice):
            rows = np.arange(*cells.indices(self.shape[0]))
        else:
            rows = cells
        order = None
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            rows, order = np.unique(rows, return_inverse=True)
        values = selected_rows(self.matrix, rows)
        block, _ = as_counts(values, self.matrix.where, counts=self.counts)
        if self._columns is not None:
            block = block[:, self._columns].tocsr()
            block.sort_indices()
        return block if order is None else block[order]

    def to_memory(self) -> sp.csr_matrix:
        """Return the counts of all cells."""
        return sp.vstack([block for _, block in self.blocks()], "csr")

    def blocks(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Yield all cells in order, some at a time; the next block is read meanwhile."""
        starts = range(0, max(1, self.shape[0]), ROWS)  # one empty block if there are no cells
        parts = (slice(start, min(start + ROWS, self.shape[0])) for start in starts)
        yield from prefetch((part, self.read(part)) for part in parts)


def rows_in_file(matrix: Any, where: str) -> StoredMatrix:
    """Return a matrix in a file whose rows can be read one by one."""
    if hasattr(matrix, "group"):  # of a backed AnnData object
        matrix = StoredMatrix(matrix.group, tuple(matrix.shape), where)
    if not isinstance(matrix, StoredMatrix):
        raise InputError(
            "in_memory=False (--on-disk) leaves counts in an .h5ad, .h5mu or .zarr file, and "
            f"{where} is in memory: write it to one first, or leave the setting out"
        )
    if matrix.by_column:
        raise InputError(
            f"{where} is stored by columns, so that cells cannot be read one by one: write it by "
            "rows (adata.X = adata.X.tocsr()), or leave in_memory=False (--on-disk) out"
        )
    return matrix


def read_rows(counts: sp.csr_matrix | StoredCounts, cells: np.ndarray | slice) -> Tensor:
    """Return the counts of some cells, by position, `cell gene`, float32, on the host."""
    if isinstance(counts, StoredCounts):
        return dense_rows(counts.read(cells), slice(None))
    return dense_rows(counts, cells)


class PrefetchedSource:
    """Rows of counts in a file, read before they are needed.

    `windows` are the positions of the cells in their order, a window at a time, without end.
    """

    def __init__(self, counts: StoredCounts, windows: Iterable[np.ndarray]) -> None:
        self.counts = counts
        self._windows = prefetch((window, counts.read(window)) for window in windows)
        self._window = np.zeros(0, np.int64)  # the cells of it that have not been taken yet
        self._block = sp.csr_matrix((0, counts.shape[1]))

    def rows(self, positions: np.ndarray | slice) -> Tensor:
        """Return the counts of the next cells, `cell gene`, float32; they must be `positions`."""
        if isinstance(positions, slice):
            positions = np.arange(self.counts.shape[0])[positions]
        parts = []
        while len(positions):
            if not len(self._window):
                self._window, self._block = next(self._windows)
            n = min(len(positions), len(self._window))
            if not np.array_equal(self._window[:n], positions[:n]):
                raise ValueError("cells are taken out of turn")
            start = self._block.shape[0] - len(self._window)
            parts.append(dense_rows(self._block, slice(start, start + n)))
            self._window, positions = self._window[n:], positions[n:]
        return torch.cat(parts)

    def close(self) -> None:
        """End the thread that reads."""
        self._windows.close()
