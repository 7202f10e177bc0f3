"""Cells with many sgRNAs: `benchmarks/high_moi.py [--cells 20000] [--steps 2000]`.

A screen of 100 targets with eight sgRNAs in a cell, read from counts of sgRNAs, and one with one
sgRNA in a cell and eight times as many cells, so with as many observations of each sgRNA. Printed
are the cells that are left out, the time to read and per step, and how the model's effects agree
with the truth: correlation and slope over all effects, and error of the null ones.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import samsvae

N_TARGETS, N_GENES, N_CONTROL = 100, 200, 10


def simulated(n_cells: int, moi: float, seed: int) -> tuple[AnnData, np.ndarray]:
    """Return genes with counts of sgRNAs in obsm, and true log2 fold changes, `target gene`.

    Two sgRNAs for each target, ten of control; sgRNAs load independently; effects add up in the
    logarithm.
    """
    rng = np.random.default_rng(0)  # the same effects, whatever the screen
    effects = np.where(
        rng.random((N_TARGETS, N_GENES)) < 0.05, rng.normal(0, 0.8, (N_TARGETS, N_GENES)), 0
    )
    base = rng.gamma(1.0, 1.0, N_GENES) + 0.05
    rng = np.random.default_rng(seed)
    n_sgrnas = 2 * N_TARGETS + N_CONTROL
    holds = rng.random((n_cells, n_sgrnas)) < moi / n_sgrnas
    received = holds[:, :N_TARGETS] | holds[:, N_TARGETS : 2 * N_TARGETS]
    rate = base * np.exp(received @ effects)
    size = rng.lognormal(np.log(2000), 0.3, (n_cells, 1))
    counts = rng.poisson(size * rate / rate.sum(1, keepdims=True))
    ambient = rng.lognormal(0, 0.5, (n_cells, 1)) * rng.lognormal(-3.3, 0.5, n_sgrnas)
    signal = rng.lognormal(3.5, 0.5, n_sgrnas) * rng.gamma(2, 0.5, holds.shape)
    adata = AnnData(sp.csr_matrix(counts.astype(np.float32)))
    names = [f"T{i:03}g{j}" for j in (1, 2) for i in range(N_TARGETS)]
    names += [f"NTg{i}" for i in range(N_CONTROL)]
    guides = rng.poisson(ambient + holds * signal)
    adata.obsm["guide_counts"] = pd.DataFrame(guides, adata.obs_names, names)
    shifted = np.exp(effects) * base
    truth = effects - np.log(shifted.sum(1, keepdims=True) / base.sum())
    return adata, truth / np.log(2)


def main() -> None:
    """Print a line for each of the two screens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    for moi, n_cells in ((8.0, given.cells), (1.0, 8 * given.cells)):
        adata, truth = simulated(n_cells, moi, seed=1)
        start = time.perf_counter()
        with warnings.catch_warnings(action="ignore"):
            screen = samsvae.Screen.from_anndata(adata)
            seconds = time.perf_counter() - start
            screen = screen.with_split(samsvae.splits.random(screen, seed=0))
            model = samsvae.SAMSVAE(screen, n_latent=50, n_hidden=128)
            start = time.perf_counter()
            model.train(max_steps=given.steps, progress=False)
            step = (time.perf_counter() - start) / given.steps
            names = [f"T{i:03}" for i in range(N_TARGETS)]
            effects = model.effects(
                names, relative_to="library", n_particles=500, n_draws=0, progress=False
            ).X
        is_null = np.abs(truth) < 0.2
        x, y = truth[~is_null], effects[~is_null]
        row = {
            "moi": moi,
            "cells": n_cells,
            "left_out": n_cells - len(screen),
            "control": int(screen.is_control.sum()),
            "read_s": round(seconds, 1),
            "step_ms": round(1000 * step, 1),
            "correlation": round(float(np.corrcoef(truth.ravel(), effects.ravel())[0, 1]), 3),
            "slope": round(float(x @ y / (x @ x)), 3),
            "rms_error_of_null": round(float(np.sqrt(np.mean(effects[is_null] ** 2))), 3),
        }
        print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
