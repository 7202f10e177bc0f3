"""AnnData as h5ad files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem

from samsvae.storage.files import written_aside

Rows: TypeAlias = Iterator[sp.csr_matrix]


def h5ad_bytes(adata: AnnData) -> bytes:
    """Return an AnnData object as the bytes of an h5ad file.

    The file is made in memory: when the disk is full in the middle of writing one, the HDF5 library
    may take the process with it.
    """
    adata.strings_to_categoricals()  # as AnnData.write_h5ad does
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        write_elem(file, "/", adata)
        file.flush()
        return bytes(file.id.get_file_image())


def write_h5ad(
    path: str | os.PathLike[str], adata: AnnData, rows: Callable[[], Rows] | None = None
) -> None:
    """Write an AnnData object aside, then rename it.

    Parameters
    ----------
    path
        Of the file.
    adata
        What it is to hold.
    rows
        Gives the rows of X, some at a time, where they are never to be in memory together: then
        that of `adata` is sparse, of the same shape, and empty. Called twice.
    """
    with written_aside(path) as aside:
        put_h5ad(aside, adata, rows)


def put_h5ad(path: Path, adata: AnnData, rows: Callable[[], Rows] | None = None) -> None:
    """Write an AnnData object to a path that is already aside; see `write_h5ad`."""
    path.write_bytes(h5ad_bytes(adata))
    if rows is not None:
        _fill(path, rows)


def _fill(path: Path, rows: Callable[[], Rows]) -> None:
    """Put rows in the place of an empty X."""
    seen = [(np.diff(block.indptr), block.dtype) for block in rows()]
    starts = np.concatenate([[0], *(widths for widths, _ in seen)]).cumsum()
    types = {"data": np.result_type(*(kind for _, kind in seen)), "indices": np.dtype(np.int32)}
    _check_room(path, sum(int(starts[-1]) * kind.itemsize for kind in types.values()))
    with h5py.File(path, "r+") as file:
        x = file["X"]
        for name, kind in types.items():
            del x[name]
            x.create_dataset(name, (starts[-1],), kind)
        x["indptr"][:] = starts
        place = 0
        for block in rows():
            part = slice(place, place + block.nnz)
            x["data"][part], x["indices"][part] = block.data, block.indices
            place = part.stop


def _check_room(path: Path, n_bytes: int) -> None:
    """Raise if a file cannot grow by so much, before the HDF5 library finds out (see above)."""
    if n_bytes and hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            size = path.stat().st_size
            os.posix_fallocate(file.fileno(), size, n_bytes)
            file.truncate(size)
