"""Sparse matrices in a file, checked before anything is made of them.

What a file says of a sparse matrix is taken by compiled code at its word: an index out of range
reads or writes where it should not. So it is checked here first, and nothing of a declared size is
allocated before it is known to be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from samsvae.data.nodes import Node, check_stored, is_array, member
from samsvae.errors import InputError

_GAP = 64
"""Rows that are read and thrown away sooner than that a new read is begun."""


def by_rows(matrix: Any, where: str = "adata.X") -> Any:
    """Return a matrix, in memory or in a file, of which rows can be taken by a slice.

    One that lies by columns is turned once: taking rows would read all of it each time.
    """
    if hasattr(matrix, "group"):  # of a backed AnnData
        matrix = StoredRows(matrix.group, tuple(matrix.shape), where)
    if getattr(matrix, "by_column", False):
        matrix = matrix.to_memory()
    return matrix.tocsr() if sp.issparse(matrix) and matrix.format != "csr" else matrix


class StoredRows:
    """Rows of a sparse matrix in a file, `cell gene`; the file may be closed meanwhile.

    Parameters
    ----------
    group
        Of the file: indptr, indices and data.
    shape
        What it is to have.
    where
        What it is called in messages.
    declared
        The shape that the file says it has, where an AnnData file would not say it.

    Raises
    ------
    InputError
        If the parts do not make a matrix of that shape.
    """

    format = "csr"

    def __init__(
        self,
        group: Any,
        shape: tuple[int, int],
        where: str,
        *,
        declared: tuple[int, ...] | None = None,
    ) -> None:
        self.shape, self.where = shape, where
        self.by_column = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format")) in (
            "csc_matrix",
            "csc",
        )
        self._check_shape(group.attrs if declared is None else {"shape": declared})
        self._node = Node(group)
        data, indices = (self._part(group, name) for name in ("data", "indices"))
        pointers = self._part(group, "indptr")
        n_lines = shape[self.by_column]
        if pointers.shape != (n_lines + 1,):
            raise self._error(f"indptr has {pointers.size} values, expected {n_lines + 1}")
        if data.shape != indices.shape:
            raise self._error(f"{data.size} values and {indices.size} indices")
        for name, part in (("indices", indices), ("indptr", pointers)):
            if part.dtype.kind not in "iu":
                raise self._error(f"{name} are {part.dtype}, expected whole numbers")
        self.dtype = np.dtype(data.dtype)
        """Of the values."""
        if self.dtype.kind not in "fiub":
            raise InputError(f"{where} holds {self.dtype} values: expected real numbers")
        self.pointers = pointers[:].astype(np.int64)
        ends = int(self.pointers[0]), int(self.pointers[-1])
        if ends != (0, data.size):
            raise self._error(f"indptr goes from {ends[0]} to {ends[1]}, not 0 to {data.size}")
        if (np.diff(self.pointers) < 0).any():
            raise self._error("indptr falls")

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        if self.by_column:
            raise TypeError("rows of a matrix that is stored by columns: take to_memory first")
        start, stop, _ = rows.indices(self.shape[0])
        return self._lines(start, stop, sp.csr_matrix)

    def to_memory(self) -> sp.csr_matrix | sp.csc_matrix:
        """Return the whole matrix."""
        kind = sp.csc_matrix if self.by_column else sp.csr_matrix
        return self._lines(0, self.shape[self.by_column], kind)

    def _lines(self, start: int, stop: int, kind: type) -> Any:
        """Return some rows (or columns, where these are stored)."""
        first, last = self.pointers[start], self.pointers[stop]
        group, n_across = self._node(), self.shape[not self.by_column]
        indices = group["indices"][first:last]
        if len(indices) and not (indices.min() >= 0 and indices.max() < n_across):
            wrong = indices[(indices < 0) | (indices >= n_across)][0]
            raise self._error(f"the index {wrong} is not between 0 and {n_across - 1}")
        shape = [stop - start, n_across]
        small = np.int32 if max(n_across, last - first) < 2**31 else np.int64
        pointers = self.pointers[start : stop + 1] - first
        parts = group["data"][first:last], indices.astype(small), pointers.astype(small)
        return kind(parts, shape=tuple(shape[::-1] if self.by_column else shape))

    def _check_shape(self, attributes: Mapping[str, Any]) -> None:
        declared = attributes.get("shape", attributes.get("h5sparse_shape"))
        if declared is None or tuple(np.ravel(declared)) != self.shape:
            said = "none" if declared is None else " x ".join(f"{n}" for n in np.ravel(declared))
            raise self._error(
                f"its shape is {said}, expected {self.shape[0]} cells x {self.shape[1]} genes"
            )

    def _part(self, group: Any, name: str) -> Any:
        part = member(group, name)
        if not is_array(part) or part.ndim != 1:
            raise self._error(f"it has no {name}")
        check_stored(part, f"{name} of {self.where}")
        return part

    def _error(self, what: str) -> InputError:
        return InputError(
            f"{self.where} is no sparse matrix ({what}): the file is damaged, write it again"
        )


class StoredDense:
    """Rows of a dense matrix in a file, `cell gene`; the file may be closed meanwhile.

    Parameters
    ----------
    array
        Of the file.
    """

    by_column = False

    def __init__(self, array: Any) -> None:
        self._node = Node(array)
        n_cells, n_genes = array.shape
        self.shape, self.dtype = (n_cells, n_genes), np.dtype(array.dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        found: np.ndarray = self._node()[rows]
        return found


def as_csr(rows: Any) -> sp.csr_matrix:
    """Return some rows as CSR; of numbers in half precision scipy makes none."""
    return sp.csr_matrix(rows.astype(np.float32) if rows.dtype == np.float16 else rows)


def some_rows(matrix: StoredRows | StoredDense, rows: np.ndarray) -> sp.csr_matrix:
    """Return some rows of a matrix in a file; `rows` rise. What lies together is read at once."""
    if not len(rows):
        return as_csr(matrix[:0])
    blocks = []
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > _GAP) + 1):
        block = as_csr(matrix[run[0] : run[-1] + 1])
        blocks.append(block if block.shape[0] == len(run) else block[run - run[0]])
    return sp.vstack(blocks, "csr")
