"""Small screens, and a model that trains on them in a moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import samsvae


def make_adata(
    *, n_cells: int = 240, n_genes: int = 12, seed: int = 0, labels: tuple[str, ...] | None = None
) -> AnnData:
    """Return counts with conditions "control", "A", "B", "C" and "A+B", a split and a batch."""
    rng = np.random.default_rng(seed)
    labels = labels or ("control", "A", "B", "C", "B+A")
    label = np.array(labels)[np.arange(n_cells) % len(labels)]
    rate = rng.gamma(2.0, 2.0, n_genes) + 0.5
    size = rng.lognormal(0, 0.3, n_cells)
    effect = np.ones((n_cells, n_genes))
    effect[np.char.find(label, "A") >= 0, 0] = 4.0
    effect[np.char.find(label, "B") >= 0, 1] = 0.1
    counts = rng.poisson(size[:, None] * rate * effect).astype(np.float32)
    counts[:, -1] += 1  # no cell is empty
    obs = pd.DataFrame(
        {
            "perturbation": label,
            "split": np.array(["train", "train", "train", "valid", "test"])[
                (np.arange(n_cells) // len(labels)) % 5
            ],
            "batch": np.array(["one", "two"])[rng.integers(0, 2, n_cells)],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


SMALL = {"n_latent": 4, "n_hidden": 8, "n_hidden_embedding": 6, "mask_prob": 0.1}
"""Hyperparameters of a model that trains in a moment."""


def read(adata: AnnData, **keys: Any) -> samsvae.Screen:
    return samsvae.Screen.from_anndata(adata, split_key="split", **keys)


def half_dead(*, n_cells: int = 900) -> samsvae.Screen:
    """Return a screen in which A acts in cells of its first sgRNA only, B in all, C in none."""
    adata = make_adata(n_cells=n_cells, labels=("control", "A", "B", "C"))
    label = adata.obs["perturbation"].to_numpy()
    names = np.char.add(label.astype(str), np.array(["g1", "g2"])[np.arange(n_cells) // 4 % 2])
    rng = np.random.default_rng(1)
    rate = adata.X[label == "control"].mean(0)
    dead = names == "Ag2"
    adata.X[dead] = rng.poisson(rate, (dead.sum(), len(rate)))
    strong = (label == "A") & ~dead
    adata.X[strong, 2] = rng.poisson(6 * rate[2] + 20, strong.sum())
    adata.obs["guide"] = names
    return read(adata, sgrna_key="guide")
