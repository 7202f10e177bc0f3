"""AnnData as h5ad files that are whole or not there."""

from __future__ import annotations

import os

import h5py
from anndata import AnnData
from anndata.io import write_elem

from samsvae.storage.files import written_aside


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


def write_h5ad(path: str | os.PathLike[str], adata: AnnData) -> None:
    """Write an AnnData object aside, then rename it."""
    with written_aside(path) as aside:
        aside.write_bytes(h5ad_bytes(adata))
