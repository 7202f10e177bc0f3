"""Screens from h5ad files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from samsvae.data.screen import Screen
from samsvae.data.sparse import StoredRows, check_stored, member
from samsvae.data.table import Table
from samsvae.errors import InputError
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.takes import takes


@takes(ScreenSettings)
def read_h5ad(path: str | os.PathLike[str], **settings: Any) -> Screen:
    """Read a screen from an h5ad file, without ever holding its whole matrix as floats.

    Only what is needed is read: names, the columns that the settings name, one matrix.

    Parameters
    ----------
    path
        The file.
    **settings
        As in `Screen.from_anndata`.

    Raises
    ------
    InputError
        If there is no such file, it is not h5ad, is truncated or damaged, or its content cannot be
        used.

    Examples
    --------
    >>> from anndata import AnnData
    >>> labels = ["control", "A", "B+A", "control"]
    >>> obs = pd.DataFrame({"perturbation": labels}, index=["c1", "c2", "c3", "c4"])
    >>> adata = AnnData(np.array([[1, 2], [3, 0], [2, 2], [0, 1]]), obs=obs)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adata.write_h5ad(f"{folder}/screen.h5ad")
    ...     screen = read_h5ad(f"{folder}/screen.h5ad")
    >>> len(screen), screen.perturbations
    (4, ('A', 'B'))
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected an h5ad file")
    given = ScreenSettings(**settings)
    try:
        with h5py.File(path, "r") as file:
            return Screen.from_table(_table(file), given)
    except InputError:
        raise
    except Exception as error:  # many kinds, for a file that is not what it should be
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{str(path)!r} cannot be read as h5ad (is it whole, and was it written by anndata?): "
            f"{reason}"
        ) from error


def _table(file: h5py.File) -> Table:
    """Return what a file holds; columns and matrices are read when they are asked for."""
    frames = {name: _Frame(file, name) for name in ("obs", "var")}
    shape = len(frames["obs"].names), len(frames["var"].names)
    layers = member(file, "layers") if "layers" in file else {}
    return Table(
        frames["obs"].names,
        frames["var"].names,
        frames["obs"].columns,
        frames["obs"].column,
        _Layers(layers, shape),
        _matrix(member(file, "X"), shape, "adata.X") if "X" in file else None,
    )


class _Frame:
    """A data frame in a file."""

    def __init__(self, file: h5py.File, name: str) -> None:
        node = member(file, name)
        if node is None:
            raise ValueError(f"it has no {name}")
        self.node, self.name = node, name
        self.whole: pd.DataFrame | None = None
        if not (isinstance(node, h5py.Group) and node.attrs.get("encoding-version") == "0.2.0"):
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
    if isinstance(node, h5py.Group):
        if node.attrs.get("encoding-type") == "null":
            return None
        return StoredRows(node, shape, where)
    check_stored(node, where)
    if node.shape != shape:
        said = " x ".join(map(str, node.shape)) or "a single value"
        raise InputError(
            f"{where} is {said}, expected {shape[0]} cells x {shape[1]} genes: the file is damaged"
        )
    return node


def check_parts(node: Any, where: str) -> None:
    """Raise if a data set, or one of a group, declares far more values than the file can hold."""
    if isinstance(node, h5py.Dataset):
        check_stored(node, where)
    elif isinstance(node, h5py.Group):
        for name in node:
            check_parts(member(node, name), where)
