"""Counts that stay in their file and are read cell by cell, when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from samsvae.data.ahead import ahead
from samsvae.data.counts import ROWS, as_counts, note_rounded
from samsvae.data.sparse import StoredDense, StoredRows, some_rows
from samsvae.errors import InputError


class StoredCounts:
    """Counts in a file, `cell gene`: cells and genes of it, in any order, by position.

    Indexed by cells it is as lazy as before; `read` gives counts.

    Parameters
    ----------
    matrix
        In the file.
    where
        What it is called in messages.
    counts
        False: real values, see `samsvae.data.counts.to_counts`.
    rows, columns
        Positions in the file of these cells and genes; None: all of them.
    """

    def __init__(
        self,
        matrix: StoredRows | StoredDense,
        where: str,
        *,
        counts: bool,
        rows: np.ndarray | None = None,
        columns: np.ndarray | None = None,
    ) -> None:
        self.matrix, self.where, self.counts = matrix, where, counts
        self._rows, self._columns = rows, columns
        n_cells, n_genes = matrix.shape
        self.shape = (
            n_cells if rows is None else len(rows),
            n_genes if columns is None else len(columns),
        )

    def __getitem__(self, cells: Any) -> StoredCounts:
        rows = np.arange(self.shape[0], dtype=np.int64) if self._rows is None else self._rows
        return self._with(rows[cells], self._columns)

    def genes(self, columns: np.ndarray) -> StoredCounts:
        """Return some genes, by position."""
        return self._with(self._rows, columns if self._columns is None else self._columns[columns])

    def _with(self, rows: np.ndarray | None, columns: np.ndarray | None) -> StoredCounts:
        return StoredCounts(self.matrix, self.where, counts=self.counts, rows=rows, columns=columns)

    def read(self, cells: np.ndarray | slice = slice(None)) -> sp.csr_matrix:
        """Return the counts of some cells, by position, in the order that is asked for."""
        if self._rows is not None:
            wanted = self._rows[cells]
        elif isinstance(cells, slice):
            wanted = np.arange(*cells.indices(self.shape[0]))
        else:
            wanted = cells
        rises = len(wanted) < 2 or bool((np.diff(wanted) > 0).all())
        rows, order = (wanted, None) if rises else np.unique(wanted, return_inverse=True)
        found, _ = as_counts(some_rows(self.matrix, rows), self.where, counts=self.counts)
        if self._columns is not None:
            found = found[:, self._columns].tocsr()
            found.sort_indices()
        return found if order is None else found[order]

    def to_memory(self) -> sp.csr_matrix:
        """Return the counts of all cells."""
        return sp.vstack([block for _, block in self.blocks()], "csr")

    def blocks(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Yield all cells in order, some at a time; the next are read meanwhile."""
        starts = range(0, max(1, self.shape[0]), ROWS)  # no cells are a block, too
        parts = (slice(start, min(start + ROWS, self.shape[0])) for start in starts)
        yield from ahead((part, self.read(part)) for part in parts)


def rows_in_file(matrix: Any, where: str) -> StoredRows | StoredDense:
    """Return a matrix of a file, of which rows are read where they lie.

    Raises
    ------
    InputError
        If it is not in a file, or lies there by columns.
    """
    if hasattr(matrix, "group"):  # of a backed AnnData
        matrix = StoredRows(matrix.group, tuple(matrix.shape), where)
    if not isinstance(matrix, StoredRows | StoredDense):
        raise InputError(
            f"in_memory=False (--on-disk) leaves counts in an .h5ad, .h5mu or .zarr file, and "
            f"{where} is in memory: write it to one first, or leave the setting out"
        )
    if matrix.by_column:
        raise InputError(
            f"{where} is stored by columns, so that cells cannot be read one by one: write it by "
            "rows (adata.X = adata.X.tocsr()), or leave in_memory=False (--on-disk) out"
        )
    return matrix


def left_in_file(
    matrix: StoredRows | StoredDense, where: str, *, counts: bool
) -> tuple[StoredCounts, np.ndarray]:
    """Return a matrix of a file as counts that stay there, and the sum of each cell.

    All of it is read once, and checked.

    Raises
    ------
    InputError
        If it does not hold counts.
    """
    total, residue = np.zeros(matrix.shape[0]), 0.0
    starts = range(0, matrix.shape[0], ROWS)
    for start, rows in ahead((start, matrix[start : start + ROWS]) for start in starts):
        block, missed = as_counts(rows, where, counts=counts)
        total[start : start + ROWS] = np.asarray(block.sum(1), np.float64).ravel()
        residue = max(residue, missed)
    note_rounded(where, residue)
    return StoredCounts(matrix, where, counts=counts), total
