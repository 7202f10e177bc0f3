"""Screens of clones, without effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae import Screen

N_CONDITIONS, N_GENES = 8, 120


def screen_of_clones(
    seed: int, *, sd: float, n_clones: tuple[int, ...] = (8, *[3] * N_CONDITIONS), told: bool = True
) -> Screen:
    """Return a screen without effects, each clone of which differs (natural log) on all genes."""
    rng = np.random.default_rng(seed)
    n_cells = np.array([400, *[90] * N_CONDITIONS])
    condition = np.repeat(np.arange(len(n_cells)), n_cells)
    clone = 100 * condition + rng.integers(0, np.array(n_clones)[condition])
    share = np.exp(rng.normal(0, 0.7, N_GENES))
    own = rng.normal(0, sd, (100 * len(n_cells), N_GENES))
    mean = rng.lognormal(0, 0.3, len(clone))[:, None] * 800 * share / share.sum()
    mean = mean * np.exp(own[clone]) * rng.gamma(5, 1 / 5, mean.shape)
    labels = np.array(["control", *[f"P{i}" for i in range(N_CONDITIONS)]])[condition]
    obs = pd.DataFrame({"perturbation": labels, "clone": clone.astype(str)})
    adata = AnnData(rng.poisson(mean).astype(np.float32), obs=obs.rename(index="c{}".format))
    return Screen.from_anndata(adata, replicate_key="clone" if told else None)
