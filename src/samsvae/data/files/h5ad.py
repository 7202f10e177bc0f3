"""Files of anndata, HDF5 or zarr, and the parts of others that are laid out alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem

from samsvae.data.nodes import check_stored, is_array, member
from samsvae.data.sparse import StoredDense, StoredRows
from samsvae.data.table import Frame, Table
from samsvae.errors import InputError


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
