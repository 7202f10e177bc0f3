"""Reading ahead: the next item is made while the one before is in use.

Counts that stay in their file and are read cell by cell, when they are asked for.

Where the counts of cells come from: memory, or a file.

Everything else that a batch holds (what cells received, library sizes, batches) takes a few bytes
per cell and is kept by `samsvae.data.screen.Screen`. Which cells are read is decided elsewhere, in
`samsvae.data.order`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.counts import ROWS, as_counts, note_rounded
from samsvae.data.files.anndata_files import StoredDense, StoredRows, some_rows
from samsvae.errors import InputError
from samsvae.ops import native

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield items in their order; a thread makes the next one meanwhile.

    What making one raises is raised when its turn comes. The thread ends with the last item, or
    when this is closed.

    >>> list(ahead(i * i for i in range(3)))
    [0, 1, 4]
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, source, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # it is not the end


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


_VALUES = ("uint8", "uint16", "uint32", "float32")
"""What the C code reads; its columns are int32 or int64."""


def dense(matrix: sp.csr_matrix, rows: np.ndarray | slice, *, fast: bool = True) -> Tensor:
    """Return some rows, `row column`, in float32.

    Parameters
    ----------
    matrix
        Its rows can be taken: a CSR matrix.
    rows
        Their positions, none negative.
    fast
        Use the C code where it serves; else scipy, which makes a sparse matrix of them before.
    """
    if isinstance(rows, slice):
        rows = np.arange(matrix.shape[0])[rows]
    if not fast or matrix.dtype.name not in _VALUES or native.library() is None:
        return torch.from_numpy(matrix[rows].toarray().astype(np.float32, copy=False))
    if len(rows) > 0 and not 0 <= rows.min() <= rows.max() < matrix.shape[0]:
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {matrix.shape[0]}")
    out = torch.empty(len(rows), matrix.shape[1])
    starts = matrix.indptr.astype(matrix.indices.dtype, copy=False)
    parts = matrix.data, matrix.indices, starts, rows.astype(np.int64, copy=False)
    native.call(
        f"rows_{matrix.dtype.name}_{matrix.indices.dtype.name}",
        *(np.ascontiguousarray(part) for part in parts),
        *(out, *out.shape, native.threads(out.numel())),
    )
    return out
