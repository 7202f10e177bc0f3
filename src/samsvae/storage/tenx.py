"""10x Genomics' count matrices: the h5 file, and the folder of matrix, barcodes and features."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from samsvae.errors import InputError, listed, note
from samsvae.storage.anndata_files import Frame, Table, X, check_declared_size, member

_GENES = "Gene Expression"


def read_h5(file: h5py.File) -> Table:
    """Return the genes of a filtered (or raw) feature-barcode matrix, of Cell Ranger 2 or later."""
    group = member(file, "matrix")
    if group is None:
        genomes = [name for name in file if isinstance(member(file, name), h5py.Group)]
        if len(genomes) != 1 or "barcodes" not in file[genomes[0]]:
            raise InputError(
                "the file has no group 'matrix': expected 10x Genomics' h5; a file of anndata ends "
                "in .h5ad"
            )
        group = file[genomes[0]]
        columns = {"id": group["genes"], "name": group["gene_names"]}
    else:
        columns = {name: group["features"][name] for name in ("id", "name", "feature_type")}
    check_declared_size(group, "the matrix")
    features = pd.DataFrame({name: _texts(column) for name, column in columns.items()})
    barcodes = _texts(group["barcodes"])
    shape = tuple(map(int, group["shape"][:]))
    _check_shape(shape, features, barcodes)
    # Columns of the file are cells, so its arrays are the rows of cells x genes.
    parts = tuple(group[name][:] for name in ("data", "indices", "indptr"))
    matrix = sp.csr_matrix(parts, shape=shape[::-1])
    matrix.check_format(full_check=True)
    return _table(matrix, barcodes, features)


def matrix_in(folder: Path) -> Path | None:
    """Return the matrix in a folder, if there is one."""
    paths = (folder / name for name in ("matrix.mtx", "matrix.mtx.gz"))
    return next((path for path in paths if path.exists()), None)


def read_folder(folder: Path) -> Table:
    """Return the genes of a folder with matrix.mtx, barcodes.tsv and features.tsv, or *.gz."""
    barcodes = _lines(folder, "barcodes.tsv")[0].to_numpy(str)
    features = _lines(folder, "features.tsv", "genes.tsv")
    features = features.rename(columns={0: "id", 1: "name", 2: "feature_type"})
    if "name" not in features:
        features["name"] = features["id"]
    matrix = scipy.io.mmread(matrix_in(folder))
    _check_shape(matrix.shape, features, barcodes)
    return _table(sp.csr_matrix(matrix.T), barcodes, features)


def _lines(folder: Path, *names: str) -> pd.DataFrame:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    raise InputError(f"{str(folder)!r} has a matrix but no {' or '.join(names)}")


def _check_shape(shape: tuple[int, ...], features: pd.DataFrame, barcodes: np.ndarray) -> None:
    if shape != (len(features), len(barcodes)):
        raise InputError(
            f"the matrix is {' x '.join(map(str, shape))}, of {len(features)} features and "
            f"{len(barcodes)} barcodes: the file is damaged"
        )


def _table(counts: sp.csr_matrix, barcodes: np.ndarray, features: pd.DataFrame) -> Table:
    """Return the genes among the features, named by symbols where these are unique."""
    if "feature_type" not in features:  # of an old version of Cell Ranger: all are genes
        features["feature_type"] = _GENES
    is_gene = (features["feature_type"] == _GENES).to_numpy()
    others = features["feature_type"][~is_gene].value_counts()
    if not is_gene.any():
        raise InputError(f"no feature has the type {_GENES!r}: there are {listed(others.index)}")
    if len(others):
        dropped = ", ".join(f"{n} of {kind}" for kind, n in others.items())
        note(f"features that are not genes are left out: {dropped}")
    genes = features.loc[is_gene].rename(columns={"id": "gene_ids", "name": "gene_symbols"})
    symbols = pd.Index(genes["gene_symbols"])
    if not symbols.is_unique:
        repeated = symbols[symbols.duplicated()].unique()
        note(
            f"{len(repeated)} gene symbols occur more than once, {listed(repeated, 3)}: genes go "
            "by their identifiers (gene_key='gene_symbols' finds targets by symbol)"
        )
    names = pd.Index(genes["gene_symbols" if symbols.is_unique else "gene_ids"].to_numpy(object))
    matrix = counts[:, is_gene]
    return Table(
        Frame.of(pd.DataFrame(index=pd.Index(barcodes)), "the cells"),
        Frame.of(genes[["gene_ids", "gene_symbols"]].set_axis(names), "the genes"),
        {X: lambda: matrix},
    )


def _texts(dataset: h5py.Dataset) -> np.ndarray:
    return np.array([text.decode() if isinstance(text, bytes) else text for text in dataset[:]])
