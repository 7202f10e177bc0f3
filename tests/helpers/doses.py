"""A screen with batches, doses and library sizes of its own, and some of its rows."""

from __future__ import annotations

import numpy as np

import samsvae
from helpers.screens import make_adata
from samsvae.types import Dosage

N_CELLS = 60


def dosed() -> samsvae.Screen:
    """Return a screen with batches, doses and library sizes of its own."""
    adata = make_adata(n_cells=N_CELLS)
    label = adata.obs["perturbation"]
    adata.obs["dose"] = label.map({"control": None, "A": "1", "B": "0.5", "C": "3", "B+A": "2+4"})
    adata.obs["total"] = adata.X.sum(1) + np.arange(N_CELLS)
    return samsvae.Screen.from_anndata(
        adata,
        dosage_key="dose",
        batch_key="batch",
        library_size_key="total",
        split_key="split",
    )


SCREEN = dosed()
ROWS = [
    slice(None),
    slice(5, 12),
    np.array([7, 3, 3, 58]),
    np.array([4]),
    np.flatnonzero(SCREEN.is_control),
]


def dense(dosage: Dosage, n_perturbations: int) -> np.ndarray:
    matrix = np.zeros((len(dosage.dose), n_perturbations), np.float32)
    columns = dosage.columns[dosage.position].numpy()
    np.add.at(matrix, (np.arange(len(matrix))[:, None], columns), dosage.dose.numpy())
    return matrix
