"""What a screen is taken from: columns and matrices by name, wherever they are.

Parts of a file: groups and arrays of HDF5 or zarr, read with care, found again when needed.

Sparse matrices in a file, checked before anything is made of them.

What a file says of a sparse matrix is taken by compiled code at its word: an index out of range
reads or writes where it should not. So it is checked here first, and nothing of a declared size is
allocated before it is known to be there.

Files of anndata, HDF5 or zarr, and the parts of others that are laid out alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import read_elem

from samsvae.errors import InputError


@dataclass(frozen=True, eq=False)
class Frame:
    """Names, and columns that are read when they are asked for: the rest is of no account."""

    names: pd.Index
    columns: Collection[str]
    read: Callable[[str], pd.Series]
    """Gives a column by name."""

    @classmethod
    def of(cls, frame: pd.DataFrame, what: str) -> Frame:
        """Take a data frame, refusing columns that have one name."""
        twice = frame.columns[frame.columns.duplicated()].unique()

        def read(key: str) -> pd.Series:
            if key in twice:
                raise InputError(f"{what} has several columns {key!r}: remove all but one")
            return frame[key]

        return cls(frame.index, [str(name) for name in frame.columns], read)

    def beside(self, other: Frame) -> Frame:
        """Return these columns, and those of another frame of the same rows that are not here."""
        more = [name for name in other.columns if name not in self.columns]
        return Frame(
            self.names,
            [*self.columns, *more],
            lambda key: (other if key in more else self).read(key),
        )


@dataclass(frozen=True, eq=False)
class Table:
    """Cells and genes by name, and what there is of them."""

    cells: Frame
    genes: Frame
    layers: Mapping[str, Any]
    """Matrices, `cell gene`, by name: rows are taken by a slice."""
    x: Any
    """The main matrix; None: there is none."""
    raw: Callable[[], Table | None] = lambda: None
    """Gives the matrix of `.raw` and its genes, in the place of `x`; None: there is none."""

    @classmethod
    def of(cls, adata: AnnData) -> Table:
        """Take what an AnnData object holds."""
        cells = Frame.of(adata.obs, "adata.obs")

        def raw() -> Table | None:
            kept = adata.raw
            return None if kept is None else cls(cells, Frame.of(kept.var, "raw.var"), {}, kept.X)

        return cls(cells, Frame.of(adata.var, "adata.var"), adata.layers, adata.X, raw)

    def with_columns(self, more: Frame) -> Table:
        """Return the table with further columns of the cells."""
        return replace(self, cells=self.cells.beside(more))


_RATIO = 10_000
"""Data that take so many times more memory than room in the file were not written by a program."""
_FREE = 2**28
"""Bytes below which nobody asks."""
_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup"})
_SELDOM = 50
"""After a look at a file it is not looked at for so many times as long as that took."""


def is_array(node: Any) -> bool:
    """Whether a node is an array, not a group of them."""
    return hasattr(node, "shape")


def member(group: Any, name: str) -> Any:
    """Return a member of a group of a file, None without it; what leads out of the file is none."""
    if isinstance(group, h5py.Group) and isinstance(
        group.get(name, getlink=True), h5py.ExternalLink
    ):
        raise InputError(f"{name} leads to another file: put what it holds into this one")
    return group.get(name)


def check_stored(array: Any, where: str) -> None:
    """Raise if an array declares far more values than the file can hold."""
    if array.shape is None:
        raise InputError(f"{where} is empty: the file is damaged")
    n_bytes = array.size * array.dtype.itemsize
    if n_bytes <= _FREE:
        return
    if isinstance(array, h5py.Dataset):
        stored = array.id.get_storage_size()
    else:
        stored = array.nbytes_stored()
    if n_bytes > _RATIO * max(stored, 1):
        raise InputError(
            f"{where} declares {array.size:,} values and holds {stored:,} bytes of them: the "
            "file is damaged"
        )


class Node:
    """A group or an array of a file, found again where the file was closed, or in another process.

    Parameters
    ----------
    node
        Of an open file.
    """

    def __init__(self, node: Any) -> None:
        self._node, self._process = node, os.getpid()
        self.name = str(node.name)
        of_hdf5 = isinstance(node, h5py.HLObject)
        self.kind = "HDF5" if of_hdf5 else "zarr"
        self.path = Path(node.file.filename if of_hdf5 else node.store.root).absolute()
        self._watched, self._quiet_until = self._to_watch(), 0.0
        self._written = self._state()

    def __call__(self) -> Any:
        """Return it, of the open file.

        Raises
        ------
        InputError
            If the file is gone, or was written anew.
        """
        start = time.perf_counter()
        if start >= self._quiet_until:
            if self._state() != self._written:
                raise InputError(
                    f"{str(self.path)!r} was changed while its cells were being read: open it again"
                )
            now = time.perf_counter()
            self._quiet_until = now + _SELDOM * (now - start)
        closed = isinstance(self._node, h5py.HLObject) and not self._node
        if self._node is None or closed or self._process != os.getpid():
            self._node, self._process = self._opened(), os.getpid()
        return self._node

    def _opened(self) -> Any:
        if self.kind == "HDF5":
            return h5py.File(self.path, "r")[self.name]
        import zarr  # slow to import, and needed for its own files alone

        return zarr.open_group(self.path, mode="r")[self.name.lstrip("/")]

    def _to_watch(self) -> list[str]:
        """Return what changes when the file is written.

        Of a zarr store the folders, and what describes their arrays: a chunk is written aside, then
        renamed, which changes its folder. Of chunks there may be too many to look at each.
        """
        found = [str(self.path)]
        if self.kind == "zarr":
            for folder, _, names in os.walk(self.path / self.name.strip("/")):
                found += [folder, *(os.path.join(folder, n) for n in _METADATA.intersection(names))]
        return found

    def _state(self) -> list[tuple[int, int]]:
        try:
            every = [os.stat(path) for path in self._watched]
        except OSError as error:
            raise InputError(f"{str(self.path)!r} is gone: {error.strerror}") from error
        return [(found.st_mtime_ns, found.st_size) for found in every]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_node": None, "_quiet_until": 0.0}


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


def table(file: Any) -> Table:
    """Return what a file holds; columns and matrices are read when they are asked for."""
    cells, genes = frame(file, "obs"), frame(file, "var")
    shape = len(cells.names), len(genes.names)
    layers = member(file, "layers") if "layers" in file else {}

    def raw() -> Table | None:
        group = member(file, "raw") if "raw" in file else None
        if group is None or is_array(group) or "X" not in group:
            return None
        kept = frame(group, "var")
        size = shape[0], len(kept.names)
        return Table(cells, kept, {}, _matrix(member(group, "X"), size, "adata.raw"))

    x = _matrix(member(file, "X"), shape, "adata.X") if "X" in file else None
    return Table(cells, genes, _Layers(layers, shape), x, raw)


def frame(group: Any, name: str) -> Frame:
    """Return a data frame in a file; its columns are read when they are asked for."""
    found = _Frame(group, name)
    return Frame(found.names, found.columns, found.column)


class _Frame:
    """A data frame in a file."""

    def __init__(self, file: Any, name: str) -> None:
        node = member(file, name)
        if node is None:
            raise ValueError(f"it has no {name}")
        self.node, self.name = node, name
        self.whole: pd.DataFrame | None = None
        if is_array(node) or node.attrs.get("encoding-version") != "0.2.0":
            check_parts(node, name)
            self.whole = read_elem(node)  # of an old anndata: all of it or nothing
            self.names, self.columns = self.whole.index, list(self.whole.columns)
            return
        self.names = pd.Index(np.asarray(self._read(str(node.attrs["_index"]))))
        if self.names.ndim != 1:
            raise ValueError(f"the names of {name} are no list")
        self.columns = [str(column) for column in node.attrs["column-order"]]

    def column(self, key: str) -> pd.Series:
        """Return a column by name."""
        if self.whole is not None:
            return self.whole[key]
        values = self._read(key)
        if np.ndim(values) != 1 or len(values) != len(self.names):
            raise ValueError(
                f"{self.name}[{key!r}] has {np.size(values)} values for {len(self.names)} names"
            )
        return pd.Series(values, self.names)

    def _read(self, key: str) -> Any:
        node = member(self.node, key)
        if node is None:
            raise ValueError(f"{self.name} has no {key!r}")
        check_parts(node, f"{self.name}[{key!r}]")
        return read_elem(node)


class _Layers(Mapping[str, Any]):
    """Layers in a file."""

    def __init__(self, group: Mapping[str, Any], shape: tuple[int, int]) -> None:
        self.group, self.shape = group, shape

    def __getitem__(self, name: str) -> Any:
        if name not in self.group:
            raise KeyError(name)
        return _matrix(member(self.group, name), self.shape, f"layer {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.group)

    def __len__(self) -> int:
        return len(self.group)


def _matrix(node: Any, shape: tuple[int, int], where: str) -> Any:
    """Return a matrix in a file, of which rows can be taken."""
    if node.attrs.get("encoding-type") == "null":  # a group, or an array without a size
        return None
    if not is_array(node):
        return StoredRows(node, shape, where)
    check_stored(node, where)
    if node.shape != shape:
        said = " x ".join(map(str, node.shape)) or "a single value"
        raise InputError(
            f"{where} is {said}, expected {shape[0]} cells x {shape[1]} genes: the file is damaged"
        )
    return StoredDense(node)


def check_parts(node: Any, where: str) -> None:
    """Raise if a data set, or one of a group, declares far more values than the file can hold."""
    if is_array(node):
        check_stored(node, where)
    elif node is not None:
        for name in node:
            check_parts(member(node, name), where)
