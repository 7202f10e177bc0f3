"""Time the evaluation of baselines on a large screen: `benchmarks/evaluation.py [--quick]`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from measure import Table, peak_memory, yardstick

NONZERO = 0.19
"""Share of the counts that are not 0, as in the shape "norman" of `shapes.py`."""


def screen(n_cells: int, n_genes: int, n_conditions: int, seed: int = 0) -> samsvae.Screen:
    """Return a screen of single perturbations and pairs of them, split 64/16/20 at random."""
    rng = np.random.default_rng(seed)
    n_pairs = n_conditions // 7
    singles = [f"p{i}" for i in range(n_conditions - n_pairs)]
    pairs = [f"p{i}+p{i + 1}" for i in range(n_pairs)]
    label = rng.choice(["control", *singles, *pairs], n_cells)
    rate = -np.log1p(-NONZERO) * rng.gamma(1.0, size=n_genes)
    blocks = [
        sp.csr_matrix(rng.poisson(rate, (len(rows), n_genes)).astype(np.float32))
        for rows in np.array_split(np.arange(n_cells), max(1, n_cells // 5000))
    ]
    adata = AnnData(
        sp.vstack(blocks).tocsr(),
        obs=pd.DataFrame({"perturbation": label}, [f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
    )
    read = samsvae.Screen.from_anndata(adata, drop_empty_cells=True)
    return read.with_split(samsvae.splits.stratified(read, seed=seed))


def main() -> None:
    """Time all baselines beside a technical replicate, as docs/performance.md describes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the cells and conditions")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/evaluation.csv"))
    given = parser.parse_args()
    sizes = (10_000, 5_000, 70) if given.quick else (100_000, 5_000, 700)
    cells, table, unit = screen(*sizes), Table(given.out), yardstick()
    start = time.perf_counter()
    predictors = [kind(cells) for kind in samsvae.baselines.BASELINES]
    samsvae.evaluate(predictors, cells, scale="log", n_halvings=20, progress=False)
    what = "evaluate, {:,} cells x {:,} genes x {:,} conditions".format(*sizes)
    table.add(what, [time.perf_counter() - start], unit, GiB=peak_memory())
    table.write()


if __name__ == "__main__":
    main()
