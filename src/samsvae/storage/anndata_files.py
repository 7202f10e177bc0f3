"""Tables of cells, genes and matrices: in memory, or in a file of anndata (HDF5 or zarr).

anndata reads the elements of a file (`read_elem`). Here is what anndata 0.12 does not do: sizes and
structure that a file declares are checked before anything is allocated or read by compiled code;
columns of a data frame are read one by one; rows of a sparse matrix are read directly (a slice of
anndata's `sparse_dataset` takes 5 ms, `benchmarks/on_disk.py`); a matrix opens its file for each
pass over it, in any process, and ends each with a check that the file has not changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import read_elem

from samsvae.errors import InputError, check_unique_cells
from samsvae.storage.chunks import check_chunks, report_chunks
from samsvae.storage.hdf5 import open_hdf5

X, RAW = "adata.X", "adata.raw"
"""What these matrices are called, in `Table.matrices` and in messages."""
_MAX_EXPANSION = 10_000
"""No program writes data that take so many times more memory than space in the file."""
_UNCHECKED_SIZE = 2**28
"""Declared size up to which the space in the file is not checked, bytes."""
_ZARR_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup"})
_MAX_GAP = 64
"""Rows between two wanted ones that are read and dropped rather than starting a new read."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Names of cells or genes, and columns that are read on request."""

    names: pd.Index
    columns: Collection[str]
    read: Callable[[str], pd.Series]
    """Returns a column by name."""

    @classmethod
    def of(cls, frame: pd.DataFrame, what: str) -> Frame:
        """Take a data frame; a column whose name another one has cannot be read."""

        def read(key: str) -> pd.Series:
            if frame[key].ndim > 1:
                raise InputError(f"{what} has several columns {key!r}: remove all but one")
            return frame[key]

        return cls(frame.index, [str(name) for name in frame.columns], read)

    def rows(self, positions: np.ndarray) -> Frame:
        """Return some rows, by position."""
        return Frame(
            self.names[positions], self.columns, lambda key: self.read(key).iloc[positions]
        )


@dataclass(frozen=True, eq=False)
class SgrnaCounts:
    """Counts of sgRNAs in cells."""

    counts: sp.csr_matrix
    """`cell sgrna`, UMIs."""
    features: pd.DataFrame
    """What is known of the sgRNAs, by their names."""
    where: str
    """Where they are, in words."""
    calls: sp.csr_matrix | None = None
    """`cell sgrna`: which sgRNAs each cell holds, as the file itself says; None: it does not."""


@dataclass(frozen=True, eq=False)
class Table:
    """Cells, genes and matrices, by name; columns and matrices are read on request."""

    cells: Frame
    genes: Frame
    matrices: Mapping[str, Callable[[], Any]]
    """Each returns a matrix, `cell gene`, whose rows can be sliced; None: it is empty. By name:
    `X`, `layer_name(...)`, `RAW`."""
    layers: Sequence[str] = ()
    raw_genes: Callable[[], Frame] | None = None
    """Returns the genes of `RAW`."""
    sgrnas: Callable[[], SgrnaCounts] | None = None
    """Returns the counts of sgRNAs; None: the table has none."""

    @classmethod
    def of(cls, adata: AnnData) -> Table:
        """Take the content of an AnnData object."""
        layers, raw = adata.layers, adata.raw
        matrices: dict[str, Callable[[], Any]] = {X: lambda: adata.X}
        matrices |= {layer_name(name): partial(layers.__getitem__, name) for name in layers}
        obs, var = Frame.of(adata.obs, "adata.obs"), Frame.of(adata.var, "adata.var")
        if raw is None:
            return cls(obs, var, matrices, list(layers))
        matrices[RAW] = lambda: raw.X
        return cls(obs, var, matrices, list(layers), lambda: Frame.of(raw.var, "raw.var"))

    @classmethod
    def stored(cls, group: Any) -> Table:
        """Take the content of a group of a file, laid out as anndata does."""
        obs, var = stored_frame(group, "obs"), stored_frame(group, "var")

        def matrix(group: Any, name: str, genes: Frame, where: str) -> StoredMatrix | None:
            node = member(group, name)
            if node.attrs.get("encoding-type") == "null":  # a group, or an array without a size
                return None
            return StoredMatrix(node, (len(obs.names), len(genes.names)), where)

        layers = subgroup(group, "layers") or {}
        x = matrix(group, "X", var, X) if "X" in group else None
        matrices: dict[str, Callable[[], Any]] = {X: lambda: x}
        for name in layers:
            matrices[layer_name(name)] = partial(matrix, layers, name, var, layer_name(name))
        raw = subgroup(group, "raw")
        if raw is None or "X" not in raw:
            return cls(obs, var, matrices, list(layers))

        def raw_genes() -> Frame:
            return stored_frame(raw, "var")

        matrices[RAW] = lambda: matrix(raw, "X", raw_genes(), RAW)
        return cls(obs, var, matrices, list(layers), raw_genes)

    def with_columns(self, more: Frame, where: str) -> Table:
        """Return the table with further columns of the cells, those that are not here.

        They are matched by name, and missing for cells that `more` lacks; `where` is what holds
        them.
        """
        own = self.cells
        columns = list(dict.fromkeys([*own.columns, *more.columns]))

        def read(key: str) -> pd.Series:
            if key in own.columns:
                return own.read(key)
            wanted, names = own.names.astype(str), more.names.astype(str)
            for some in (wanted, names):
                check_unique_cells(some, f"{where} cannot be matched with cells")
            return more.read(key).set_axis(names).reindex(wanted)

        return replace(self, cells=Frame(own.names, columns, read))


def layer_name(layer: str) -> str:
    """Return what a layer is called in `Table.matrices` and in messages."""
    return f"layer {layer!r}"


def stored_frame(group: Any, name: str) -> Frame:
    """Return a data frame in a file; its columns are read on request."""
    node = member(group, name)
    if node is None:
        raise ValueError(f"it has no {name}")
    if is_array(node) or node.attrs.get("encoding-version") != "0.2.0":
        check_declared_size(node, name)
        return Frame.of(read_elem(node), name)  # of an old anndata: it is read as a whole

    def values(key: str) -> Any:
        column = member(node, key)
        if column is None:
            raise ValueError(f"{name} has no {key!r}")
        check_declared_size(column, f"{name}[{key!r}]")
        if not is_array(column) and "categories" in column:
            check_chunks(column["categories"], f"the categories of {name}[{key!r}]")
        return read_elem(column)

    index = str(node.attrs["_index"])
    names = pd.Index(np.asarray(values(index)))
    if names.ndim != 1:
        raise ValueError(f"the names of {name} are not a list")
    check_chunks(node[index], f"the names of {name}")

    def read(key: str) -> pd.Series:
        column = values(key)
        if np.ndim(column) != 1 or len(column) != len(names):
            raise ValueError(f"{name}[{key!r}] has {np.size(column)} values for {len(names)} names")
        if not isinstance(column, pd.Categorical):
            report_chunks(node[key], f"{name}[{key!r}]")
        elif len(column.categories) > 1:  # else the codes say nothing
            report_chunks(node[key]["codes"], f"{name}[{key!r}]", column.categories)
        return pd.Series(column, names)

    return Frame(names, [str(column) for column in node.attrs["column-order"]], read)


def is_array(node: Any) -> bool:
    """Whether a node of a file is an array, not a group."""
    return hasattr(node, "shape")


def member(group: Any, name: str) -> Any:
    """Return a member of a group, None without it; a link out of the file is an error."""
    if isinstance(group, h5py.Group) and isinstance(
        group.get(name, getlink=True), h5py.ExternalLink
    ):
        raise InputError(f"{name} leads to another file: copy its content into this one")
    return group.get(name)


def subgroup(group: Any, name: str) -> Any:
    """Return a group in a group, None where there is none; an array in its place is an error."""
    node = member(group, name)
    if node is None or node.attrs.get("encoding-type") == "null":
        return None
    if is_array(node):
        raise InputError(f"{name} is an array, expected a group of arrays: the file is damaged")
    return node


def check_declared_size(node: Any, where: str) -> None:
    """Raise if an array, or one in a group, declares far more values than the file can hold."""
    if node is None:
        return
    if not is_array(node):
        for name in node:
            check_declared_size(member(node, name), where)
        return
    if node.shape is None:
        raise InputError(f"{where} is empty: the file is damaged")
    size = node.size * node.dtype.itemsize
    if size <= _UNCHECKED_SIZE:
        return
    stored = node.id.get_storage_size() if isinstance(node, h5py.Dataset) else node.nbytes_stored()
    if size > _MAX_EXPANSION * max(stored, 1):
        raise InputError(
            f"{where} declares {node.size:,} values and holds {stored:,} bytes of them: the file "
            "is damaged"
        )


class StoredMatrix:
    """A matrix in a file, `cell gene`: checked once, and opened anew for each pass over it.

    So it can be pickled, or used after a fork. `node` is the array, or the group of a sparse
    matrix, in the open file; `where` is what it is called in messages.
    """

    def __init__(self, node: Any, shape: tuple[int, int], where: str) -> None:
        self.shape, self.where = shape, where
        self._columns: np.ndarray | None = None
        self._is_sparse = not is_array(node)
        encoding = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format"))
        self.by_column = self._is_sparse and encoding in ("csc_matrix", "csc")
        self.dtype: np.dtype = self._sparse_type(node) if self._is_sparse else self._type(node)
        self._name, self._is_hdf5 = str(node.name), isinstance(node, h5py.HLObject)
        self.path = Path(node.file.filename if self._is_hdf5 else node.store.root).absolute()
        self._watched = [str(self.path)]
        if not self._is_hdf5:  # chunks may be too many, but writing one changes its folder's time
            for folder, _, names in os.walk(self.path / self._name.strip("/")):
                metadata = _ZARR_METADATA.intersection(names)
                self._watched += [folder, *(os.path.join(folder, name) for name in metadata)]
        self._state = self._file_state()

    def __getitem__(self, rows: slice) -> Any:
        with self.opened() as read:
            return read(rows)

    def columns(self, positions: np.ndarray) -> StoredMatrix:
        """Return some columns, by position; of a matrix stored by columns, for `[:]` alone."""
        part = copy(self)
        part._columns, part.shape = positions, (self.shape[0], len(positions))
        return part

    @contextmanager
    def opened(self) -> Iterator[Callable[[slice], Any]]:
        """Open the file, and give a function that reads rows (columns, if stored by columns).

        Before and after the pass the file must be there, and as it was when it was checked.
        """
        self._check_unchanged()
        try:
            opened: AbstractContextManager[Any]
            if self._is_hdf5:
                opened = open_hdf5(self.path)
            else:
                import zarr  # slow to import, and needed for zarr stores alone

                opened = nullcontext(zarr.open_group(self.path, mode="r"))
            with opened as file:
                node = file[self._name.lstrip("/")]
                read = partial(self._lines, node) if self._is_sparse else node.__getitem__
                columns = self._columns
                yield read if columns is None else lambda rows: read(rows)[:, columns]
        finally:
            self._check_unchanged()

    def _lines(self, group: Any, lines: slice) -> sp.csr_matrix | sp.csc_matrix:
        """Return some rows (columns, if stored by columns) of a sparse matrix."""
        n_lines, n_across = len(self._starts) - 1, self._n_across
        start, stop, _ = lines.indices(n_lines)
        first, last = self._starts[start], self._starts[stop]
        indices = group["indices"][first:last]
        if len(indices) and not (indices.min() >= 0 and indices.max() < n_across):
            wrong = indices[(indices < 0) | (indices >= n_across)][0]
            raise self._error(f"the index {wrong} is not between 0 and {n_across - 1}")
        index_type = np.int32 if max(n_across, last - first) < 2**31 else np.int64
        starts = (self._starts[start : stop + 1] - first).astype(index_type)
        parts = group["data"][first:last], indices.astype(index_type), starts
        if self.by_column:
            return sp.csc_matrix(parts, shape=(n_across, stop - start))
        return sp.csr_matrix(parts, shape=(stop - start, n_across))

    def _check_unchanged(self) -> None:
        if self._file_state() != self._state:
            raise InputError(
                f"{str(self.path)!r} was changed while its cells were being read: open it again"
            )

    def _file_state(self) -> list[tuple[int, int]]:
        try:
            states = [os.stat(path) for path in self._watched]
        except OSError as error:
            raise InputError(f"{str(self.path)!r} is gone: {error.strerror}") from error
        return [(state.st_mtime_ns, state.st_size) for state in states]

    def _type(self, array: Any) -> np.dtype:
        """Return the type of a dense matrix, checked."""
        check_declared_size(array, self.where)
        if array.shape != self.shape:
            declared = " x ".join(map(str, array.shape)) or "a single value"
            raise InputError(
                f"{self.where} is {declared}, expected {self.shape[0]} cells x {self.shape[1]} "
                "genes: the file is damaged"
            )
        report_chunks(array, self.where)
        return np.dtype(array.dtype)

    def _sparse_type(self, group: Any) -> np.dtype:
        """Return the type of a sparse matrix, of which all but the indices are checked."""
        shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
        if shape is None or tuple(np.ravel(shape)) != self.shape:
            declared = "none" if shape is None else " x ".join(map(str, np.ravel(shape)))
            raise self._error(
                f"its shape is {declared}, expected {self.shape[0]} cells x {self.shape[1]} genes"
            )
        data, indices, pointers = (self._part(group, one) for one in ("data", "indices", "indptr"))
        n_lines = self.shape[self.by_column]
        if pointers.shape != (n_lines + 1,):
            raise self._error(f"indptr has {pointers.size} values, expected {n_lines + 1}")
        if data.shape != indices.shape:
            raise self._error(f"{data.size} values and {indices.size} indices")
        for name, part in (("indices", indices), ("indptr", pointers)):
            if part.dtype.kind not in "iu":
                raise self._error(f"{name} are {part.dtype}, expected integers")
        if data.dtype.kind not in "fiub":
            raise InputError(f"{self.where} holds {data.dtype} values: expected real numbers")
        starts = pointers[:].astype(np.int64)
        if (starts[0], starts[-1]) != (0, data.size):
            raise self._error(f"indptr goes from {starts[0]} to {starts[-1]}, not 0 to {data.size}")
        if (np.diff(starts) < 0).any():
            raise self._error("indptr falls")
        if data.size:
            zeros = "; if they hold stored zeros alone, remove those with X.eliminate_zeros()"
            check_chunks(data, f"the values of {self.where}", zeros)
            check_chunks(pointers, f"indptr of {self.where}")
            if np.diff(starts).max() > 1:  # else all entries may be in the first place
                check_chunks(indices, f"indices of {self.where}")
        self._starts, self._n_across = starts, self.shape[not self.by_column]
        return np.dtype(data.dtype)

    def _part(self, group: Any, name: str) -> Any:
        part = member(group, name)
        if not is_array(part) or part.ndim != 1:
            raise self._error(f"it has no {name}")
        check_declared_size(part, f"{name} of {self.where}")
        return part

    def _error(self, reason: str) -> InputError:
        return InputError(
            f"{self.where} is no sparse matrix ({reason}): the file is damaged, write it again"
        )


def by_rows(matrix: Any, where: str = X) -> Any:
    """Return a matrix, in memory or in a file, whose rows can be sliced.

    One that is stored by columns is converted: otherwise each slice would read all of it.
    """
    if hasattr(matrix, "group"):  # of a backed AnnData object
        matrix = StoredMatrix(matrix.group, tuple(matrix.shape), where)
    if getattr(matrix, "by_column", False):
        matrix = matrix[:]
    return matrix.tocsr() if sp.issparse(matrix) and matrix.format != "csr" else matrix


def as_csr(rows: Any) -> sp.csr_matrix:
    """Return some rows as CSR; half precision, which scipy does not support, becomes single."""
    return sp.csr_matrix(rows.astype(np.float32) if rows.dtype == np.float16 else rows)


def selected_rows(matrix: StoredMatrix, rows: np.ndarray) -> sp.csr_matrix:
    """Return some rows of a matrix in a file; `rows` ascend. Neighbouring rows are read at once."""
    blocks = []
    with matrix.opened() as read:
        if not len(rows):
            return as_csr(read(slice(0, 0)))
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > _MAX_GAP) + 1):
            block = as_csr(read(slice(run[0], run[-1] + 1)))
            blocks.append(block if block.shape[0] == len(run) else block[run - run[0]])
    return sp.vstack(blocks, "csr")
