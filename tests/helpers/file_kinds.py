"""Files of other kinds than anndata's, and labels beside them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem

N_PROTEINS = 2


def write_h5mu(path: Path, adata: AnnData) -> None:
    """Write two modalities; the split stands in the columns of the whole file."""
    protein = AnnData(np.ones((len(adata), N_PROTEINS), np.float32), obs=adata.obs[[]].copy())
    rna = adata.copy()
    rna.obs = rna.obs.drop(columns="split")
    with h5py.File(path, "w") as file:
        write_elem(file, "obs", adata.obs[["split"]].iloc[::-1])
        for name, one in {"rna": rna, "prot": protein}.items():
            write_elem(file, f"mod/{name}", one)


def write_labels(path: Path, adata: AnnData, sep: str) -> None:
    adata.obs[["perturbation", "split"]].iloc[::-1].to_csv(path, sep=sep, index_label="barcode")


def write_10x_h5(path: Path, adata: AnnData, *, old: bool = False) -> None:
    """Write genes and two proteins, as Cell Ranger does: columns are cells."""
    matrix = sp.csc_matrix(np.hstack([adata.X, np.ones((len(adata), N_PROTEINS))]).T)
    names = [*adata.var_names, "CD3", "CD4"]
    if old:
        matrix, names = sp.csc_matrix(adata.X.T), list(adata.var_names)
    with h5py.File(path, "w") as file:
        group = file.create_group("GRCh38" if old else "matrix")
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices
        group["indptr"], group["shape"] = matrix.indptr.astype(np.int64), matrix.shape
        group["barcodes"] = adata.obs_names.to_numpy(dtype="S")
        identifiers = np.array([f"ENSG{i}" for i in range(len(names))], dtype="S")
        if old:
            group["genes"], group["gene_names"] = identifiers, np.array(names, dtype="S")
            return
        features = group.create_group("features")
        features["id"], features["name"] = identifiers, np.array(names, dtype="S")
        kinds = ["Gene Expression"] * adata.n_vars + ["Antibody Capture"] * N_PROTEINS
        features["feature_type"] = np.array(kinds, dtype="S")
