"""The shapes of `shapes.py` as screens."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from shapes import Shape


def screen(shape: Shape, n_cells: int) -> samsvae.Screen:
    """Return a screen of simulated cells, all for training; the first perturbation is control."""
    batch = shape.batch(n_cells)
    label = np.array(["control", *(f"p{t}" for t in range(1, shape.n_perturbations))])
    given = batch.dosage.columns[batch.dosage.position[:, 0]].numpy()
    counts = batch.counts.numpy()
    counts[:, 0] += 1
    obs = pd.DataFrame({"perturbation": label[given]}, [f"cell{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(shape.n_genes)])
    adata = AnnData(sp.csr_matrix(counts), obs=obs, var=var)
    return samsvae.Screen.from_anndata(adata).with_split(["train"] * n_cells)
