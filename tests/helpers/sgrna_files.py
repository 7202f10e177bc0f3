"""Screens whose files hold counts of sgRNAs in place of labels, in every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem

from helpers.screens import make_adata

SGRNAS = ("NTg1", "NTg2", "Ag1", "Ag2", "Bg1", "Bg2", "Cg1", "Cg2")
TARGETS = ("control", "control", "A", "A", "B", "B", "C", "C")
GUIDES = "CRISPR Guide Capture"


class Sequenced(NamedTuple):
    """Cells with counts of genes and of sgRNAs, and what is true of them."""

    genes: AnnData
    """Without labels."""
    counts: np.ndarray
    """`cell sgrna`."""
    sgrna: np.ndarray
    """`cell`: the sgRNA of each."""
    target: np.ndarray
    """`cell`: its target."""
    is_doublet: np.ndarray
    """`cell`: whether it has the counts of a second sgRNA, too."""

    @property
    def singlets(self) -> AnnData:
        """The cells with one sgRNA."""
        return self.genes[~self.is_doublet]


def sequenced(*, n_cells: int = 240, seed: int = 0) -> Sequenced:
    """Return cells of which every tenth is a doublet, with ambient sgRNAs in all."""
    rng = np.random.default_rng(seed)
    adata = make_adata(n_cells=n_cells, labels=("control", "A", "B", "C"))
    label = adata.obs["perturbation"].to_numpy()
    targets = np.array(TARGETS)
    held = np.array([rng.choice(np.flatnonzero(targets == one)) for one in label])
    counts = rng.poisson(0.2, (n_cells, len(SGRNAS)))
    counts[np.arange(n_cells), held] += 10 + rng.poisson(30, n_cells)
    is_doublet = np.arange(n_cells) % 10 == 0
    counts[is_doublet, (held[is_doublet] + 3) % len(SGRNAS)] += 20
    adata.obs = adata.obs[["split"]]
    return Sequenced(adata, counts, np.array(SGRNAS)[held], label.astype(str), is_doublet)


def all_features(cells: Sequenced) -> AnnData:
    """Return genes and sgRNAs in one matrix, sgRNAs first, as scanpy reads Cell Ranger's."""
    kinds = [GUIDES] * len(SGRNAS) + ["Gene Expression"] * cells.genes.n_vars
    names = [*SGRNAS, *cells.genes.var_names]
    matrix = sp.csr_matrix(np.hstack([cells.counts, cells.genes.X]).astype(np.float32))
    var = pd.DataFrame({"feature_types": pd.Categorical(kinds)}, index=names)
    return AnnData(matrix, obs=cells.genes.obs.copy(), var=var)


def write_10x(path: Path, cells: Sequenced, kind: str = GUIDES) -> None:
    """Write genes and sgRNAs as Cell Ranger does: an .h5 file, or a folder."""
    matrix = sp.csc_matrix(np.hstack([cells.genes.X, cells.counts]).T.astype(np.int32))
    names = [*cells.genes.var_names, *SGRNAS]
    identifiers = [*(f"ENSG{i}" for i in range(cells.genes.n_vars)), *(f"id_{s}" for s in SGRNAS)]
    kinds = ["Gene Expression"] * cells.genes.n_vars + [kind] * len(SGRNAS)
    if path.suffix != ".h5":
        path.mkdir()
        scipy.io.mmwrite(path / "matrix.mtx", matrix.tocoo())
        rows = zip(identifiers, names, kinds, strict=True)
        (path / "features.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
        (path / "barcodes.tsv").write_text("\n".join(cells.genes.obs_names) + "\n")
        return
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"] = matrix.data, matrix.indices
        group["indptr"], group["shape"] = matrix.indptr.astype(np.int64), matrix.shape
        group["barcodes"] = cells.genes.obs_names.to_numpy(dtype="S")
        features = group.create_group("features")
        for name, values in {"id": identifiers, "name": names, "feature_type": kinds}.items():
            features[name] = np.array(values, dtype="S")


def write_h5mu(path: Path, cells: Sequenced, name: str = "guide") -> None:
    """Write two modalities, with the columns of the IGVF consortium; sgRNAs in other order."""
    var = pd.DataFrame(
        {
            "intended_target_name": [t if t != "control" else "NT" for t in TARGETS],
            "targeting": [t != "control" for t in TARGETS],
        },
        index=[f"guide-{i}" for i in range(len(SGRNAS))],
    )
    guide = AnnData(sp.csr_matrix(cells.counts.astype(np.float32)), var=var)
    guide.obs_names = cells.genes.obs_names
    guide.layers["guide_assignment"] = sp.csr_matrix((cells.counts >= 10).astype(np.int8))
    with h5py.File(path, "w") as file:
        write_elem(file, "obs", cells.genes.obs)
        write_elem(file, "mod/gene", cells.genes)
        write_elem(file, f"mod/{name}", guide[::-1].copy())


def reference() -> pd.DataFrame:
    """Return a feature reference that calls targets by other names than the sgRNAs do."""
    targets = ["Non-Targeting" if t == "control" else f"gene{t}" for t in TARGETS]
    names = {"id": [f"id_{s}" for s in SGRNAS], "name": SGRNAS, "feature_type": GUIDES}
    return pd.DataFrame({**names, "target_gene_name": targets})
