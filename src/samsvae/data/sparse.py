"""Sparse matrices in a file, checked before anything is made of them.

What a file says of a sparse matrix is taken by compiled code at its word: an index out of range
reads or writes where it should not. So it is checked here first, and nothing of a declared size is
allocated before it is known to be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp

from samsvae.errors import InputError

_RATIO = 10_000
"""Data that take so many times more memory than room in the file were not written by a program."""
_FREE = 2**28
"""Bytes below which nobody asks."""


def member(group: Any, name: str) -> Any:
    """Return a member of a group of a file, None without it; what leads out of the file is none."""
    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise InputError(f"{name} leads to another file: put what it holds into this one")
    return group.get(name)


def check_stored(dataset: h5py.Dataset, where: str) -> None:
    """Raise if a data set declares far more values than the file can hold."""
    n_bytes = dataset.size * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if n_bytes > _FREE and n_bytes > _RATIO * max(stored, 1):
        raise InputError(
            f"{where} declares {dataset.size:,} values and holds {stored:,} bytes of them: the "
            "file is damaged"
        )


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
    """Rows of a sparse matrix in a file, `cell gene`.

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
        group: h5py.Group,
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
        self.data, self.indices = (self._part(group, name) for name in ("data", "indices"))
        pointers = self._part(group, "indptr")
        n_lines = shape[self.by_column]
        if pointers.shape != (n_lines + 1,):
            raise self._error(f"indptr has {pointers.size} values, expected {n_lines + 1}")
        if self.data.shape != self.indices.shape:
            raise self._error(f"{self.data.size} values and {self.indices.size} indices")
        for name, part in (("indices", self.indices), ("indptr", pointers)):
            if part.dtype.kind not in "iu":
                raise self._error(f"{name} are {part.dtype}, expected whole numbers")
        if self.data.dtype.kind not in "fiub":
            raise InputError(f"{where} holds {self.data.dtype} values: expected real numbers")
        self.pointers = pointers[:].astype(np.int64)
        ends = int(self.pointers[0]), int(self.pointers[-1])
        if ends != (0, self.data.size):
            raise self._error(f"indptr goes from {ends[0]} to {ends[1]}, not 0 to {self.data.size}")
        if (np.diff(self.pointers) < 0).any():
            raise self._error("indptr falls")

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.data.dtype

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
        indices, n_across = self.indices[first:last], self.shape[not self.by_column]
        if len(indices) and not (indices.min() >= 0 and indices.max() < n_across):
            wrong = indices[(indices < 0) | (indices >= n_across)][0]
            raise self._error(f"the index {wrong} is not between 0 and {n_across - 1}")
        shape = [stop - start, n_across]
        small = np.int32 if max(n_across, last - first) < 2**31 else np.int64
        pointers = self.pointers[start : stop + 1] - first
        parts = self.data[first:last], indices.astype(small), pointers.astype(small)
        return kind(parts, shape=tuple(shape[::-1] if self.by_column else shape))

    def _check_shape(self, attributes: Mapping[str, Any]) -> None:
        declared = attributes.get("shape", attributes.get("h5sparse_shape"))
        if declared is None or tuple(np.ravel(declared)) != self.shape:
            said = "none" if declared is None else " x ".join(f"{n}" for n in np.ravel(declared))
            raise self._error(
                f"its shape is {said}, expected {self.shape[0]} cells x {self.shape[1]} genes"
            )

    def _part(self, group: h5py.Group, name: str) -> h5py.Dataset:
        part = member(group, name)
        if not isinstance(part, h5py.Dataset) or part.ndim != 1:
            raise self._error(f"it has no {name}")
        check_stored(part, f"{name} of {self.where}")
        return part

    def _error(self, what: str) -> InputError:
        return InputError(
            f"{self.where} is no sparse matrix ({what}): the file is damaged, write it again"
        )
