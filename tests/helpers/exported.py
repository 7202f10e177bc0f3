"""Exported files, and the values in them."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData

from samsvae import Screen

LN2 = np.log(2)


def ln_values(screen: Screen) -> np.ndarray:
    counts = screen.counts.toarray().astype(float)
    values: np.ndarray = np.log(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    return values


def files(folder: Path) -> tuple[AnnData, AnnData]:
    """Return what was written: predicted and real."""
    assert sorted(path.name for path in folder.iterdir()) == ["pred.h5ad", "real.h5ad"]
    return anndata.read_h5ad(folder / "pred.h5ad"), anndata.read_h5ad(folder / "real.h5ad")
