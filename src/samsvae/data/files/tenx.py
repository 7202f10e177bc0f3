"""10x Genomics' count matrices: the h5 file, and the folder of matrix, barcodes and features."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from samsvae.data.files.anndata_files import Frame, StoredRows, Table, member
from samsvae.errors import InputError, listed, note

_GENES = "Gene Expression"


def h5(file: h5py.File) -> Table:
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
        identifiers, symbols = _texts(group["genes"]), _texts(group["gene_names"])
        kinds = np.full(len(symbols), _GENES)
    else:
        features = group["features"]
        identifiers, symbols, kinds = (
            _texts(features[name]) for name in ("id", "name", "feature_type")
        )
    barcodes = _texts(group["barcodes"])
    # Columns of the file are cells, so its arrays are the rows of cells x genes.
    declared = tuple(map(int, group["shape"][:]))
    if declared != (len(symbols), len(barcodes)):
        raise InputError(
            f"the matrix is {declared[0]} x {declared[1]}, of {len(symbols)} features and "
            f"{len(barcodes)} barcodes: the file is damaged"
        )
    stored = StoredRows(group, (len(barcodes), len(symbols)), "the matrix", declared=declared[::-1])
    return _table(stored.to_memory(), barcodes, identifiers, symbols, kinds)


def matrix_in(folder: Path) -> Path | None:
    """Return the matrix in a folder, if there is one."""
    paths = (folder / name for name in ("matrix.mtx", "matrix.mtx.gz"))
    return next((path for path in paths if path.exists()), None)


def matrix(folder: Path) -> Table:
    """Return the genes of a folder with matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv),
    each may be packed with gzip."""
    path = matrix_in(folder)
    assert path is not None
    barcodes = _rows(folder, "barcodes.tsv")[0].to_numpy(str)
    features = _rows(folder, "features.tsv", "genes.tsv")
    identifiers = features[0].to_numpy(str)
    symbols = features[1].to_numpy(str) if 1 in features else identifiers
    kinds = features[2].to_numpy(str) if 2 in features else np.full(len(symbols), _GENES)
    values = scipy.io.mmread(path)
    if values.shape != (len(symbols), len(barcodes)):
        raise InputError(
            f"the matrix is {values.shape[0]} x {values.shape[1]}, of {len(symbols)} features and "
            f"{len(barcodes)} barcodes"
        )
    return _table(sp.csr_matrix(values.T), barcodes, identifiers, symbols, kinds)


def _rows(folder: Path, *names: str) -> pd.DataFrame:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    raise InputError(f"{str(folder)!r} has a matrix but no {' or '.join(names)}")


def _table(
    counts: sp.csr_matrix,
    barcodes: np.ndarray,
    identifiers: np.ndarray,
    symbols: np.ndarray,
    kinds: np.ndarray,
) -> Table:
    """Return the genes among the features, named by symbols where these are unique."""
    is_gene = kinds == _GENES
    if not is_gene.any():
        raise InputError(f"no feature is of the kind {_GENES!r}: there are {listed(set(kinds))}")
    if not is_gene.all():
        others = pd.Series(kinds[~is_gene]).value_counts()
        told = ", ".join(f"{n} of {kind}" for kind, n in others.items())
        note(f"features that are no genes are left out: {told}")
    identifiers, symbols = identifiers[is_gene], symbols[is_gene]
    unique = len(set(symbols)) == len(symbols)
    genes = pd.DataFrame(
        {"gene_ids": identifiers, "gene_symbols": symbols},
        index=pd.Index(symbols if unique else identifiers),
    )
    if not unique:
        twice = pd.Index(symbols)[pd.Index(symbols).duplicated()].unique()
        note(
            f"{len(twice)} gene symbols occur more than once, {listed(twice, 3)}: genes go by "
            "their identifiers (gene_key='gene_symbols' finds targets by symbol)"
        )
    cells = Frame.of(pd.DataFrame(index=pd.Index(barcodes)), "the cells")
    return Table(cells, Frame.of(genes, "the genes"), {}, counts[:, is_gene])


def _texts(dataset: h5py.Dataset) -> np.ndarray:
    return np.array(
        [text.decode() if isinstance(text, bytes) else str(text) for text in dataset[:]]
    )
