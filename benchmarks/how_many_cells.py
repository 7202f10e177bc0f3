"""Measure how many cells a perturbation needs: the share of true changes that are called.

Screens of 12 perturbations and 200 genes are simulated with different numbers of cells per
perturbation and counts per cell. A model is trained on each with its defaults, and `discoveries` is
asked for all genes. True changes are log2 fold changes of expected shares, relative to the typical
gene; of those near a twofold and near a fourfold change the table has the share that is called at
q_value < 0.05, in the true direction. Calls are wrong where the true change is below 0.05 log2 or
has the other sign. (`docs/how-many-cells.md`.)

    python benchmarks/how_many_cells.py --seeds 2
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import samsvae
from samsvae.datasets import SimulatedScreen, simulated_screen

SIZES = {"twofold": (0.8, 1.25), "fourfold": (1.6, 2.5)}
"""Ranges of true changes, absolute log2 fold changes."""


def main() -> None:
    """Simulate, train and score every combination, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a CSV file for the scores of each screen")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for n_cells, counts, seed in itertools.product(given.cells, given.counts, range(given.seeds)):
        start = time.perf_counter()
        scores = scored(n_cells, counts, seed)
        rows.append({"cells": n_cells, "counts": counts, "seed": seed, **scores})
        print(f"{rows[-1]} {time.perf_counter() - start:.0f} s", flush=True)
    table = pd.DataFrame(rows)
    if given.out is not None:
        table.to_csv(given.out, index=False)
    mean = table.groupby(["counts", "cells"])[[*SIZES, "wrong"]].agg(["mean", "min", "max"])
    print(mean.round(2).to_string())


def scored(n_cells: int, counts: int, seed: int) -> dict[str, float]:
    """Return the share of true changes that are called, by size, and of wrong calls."""
    screen = simulated_screen(
        n_perturbations=12,
        n_combinations=0,
        n_latent=5,
        n_genes=200,
        cells_per_condition=n_cells,
        n_control=max(500, 3 * n_cells),
        library_size=float(counts),
        seed=seed,
    )
    model = samsvae.SAMSVAE(screen).train(progress=False, seed=seed)
    table = samsvae.discoveries(model, screen, progress=False)
    true = true_changes(screen).stack()
    change = true.loc[pd.MultiIndex.from_frame(table[["condition", "gene"]])].to_numpy()
    is_called = (table["q_value"] < 0.05).to_numpy()
    is_right = (np.abs(change) > 0.05) & (np.sign(change) == np.sign(table["estimate"]).to_numpy())
    shares = {
        name: (is_called & is_right)[(low <= np.abs(change)) & (np.abs(change) < high)].mean()
        for name, (low, high) in SIZES.items()
    }
    return {**shares, "wrong": (is_called & ~is_right).sum() / max(1, is_called.sum())}


def true_changes(screen: SimulatedScreen) -> pd.DataFrame:
    """Return the true log2 fold changes of each perturbation, relative to the typical gene."""
    truth = screen.truth
    basal = np.random.default_rng(0).standard_normal((10_000, truth.shift.shape[1]))
    control = truth.proportions(basal).mean(0)
    rows = []
    for shift in truth.shift.to_numpy():
        change = np.log2(truth.proportions(basal + shift).mean(0) / control)
        rows.append(change - np.median(change))
    return pd.DataFrame(rows, truth.shift.index, list(truth.genes))


if __name__ == "__main__":
    main()
