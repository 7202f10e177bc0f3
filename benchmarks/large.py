"""How long do the tables of a large screen take? `benchmarks/large.py [--conditions 700 ...]`.

Discoveries of 700 conditions x 5,000 genes, and the effects of pairs of these perturbations, on
counts drawn for the purpose; the model takes a few steps only, which asks no less of it. With
--screen, the interactions of a real screen's pairs, such as norman2019.
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

import samsvae
from measure import peak_memory

MODEL = {"n_latent": 50, "n_hidden": 200}
_CELLS = 2000
"""Whose counts are drawn at a time."""


def screen(n_conditions: int, n_genes: int, n_cells: int) -> samsvae.Screen:
    """Return a screen of perturbations that change a tenth of the genes each."""
    rng = np.random.default_rng(0)
    share = rng.lognormal(0, 1.5, n_genes)
    share /= share.sum()
    label = np.repeat(np.arange(n_conditions + 1), n_cells)
    label = np.concatenate([label, np.zeros(9 * n_cells, int)])  # ten times as many control cells
    parts = []
    for start in range(0, len(label), _CELLS):
        own = label[start : start + _CELLS]
        rate = np.repeat(share[None], len(own), 0)
        for i, one in enumerate(own):
            of_one = np.random.default_rng([1, one])
            genes = of_one.choice(n_genes, n_genes // 10 if one else 0, replace=False)
            rate[i, genes] *= np.exp(of_one.normal(0, 0.7, len(genes)))
        size = rng.lognormal(np.log(2500), 0.4, len(own))
        parts.append(sp.csr_matrix(rng.poisson(rate * size[:, None]).astype(np.uint16)))
    names = np.array(["control", *(f"P{i:03d}" for i in range(n_conditions))])
    split = np.array(["train", "train", "train", "valid", "test"])[np.arange(len(label)) % 5]
    obs = pd.DataFrame({"perturbation": names[label], "split": split})
    obs.index = [f"cell{i}" for i in range(len(label))]
    var = pd.DataFrame(index=[f"g{i:04d}" for i in range(n_genes)])
    adata = AnnData(sp.vstack(parts).tocsr(), obs=obs, var=var)
    return samsvae.Screen.from_anndata(adata, split_key="split")


def large(given: argparse.Namespace) -> None:
    """Print the time of discoveries, and of pairs."""
    start = time.perf_counter()
    cells = screen(given.conditions, given.genes, given.cells)
    print(f"{cells}: made in {time.perf_counter() - start:.0f} s", flush=True)
    model = samsvae.SAMSVAE(cells, **MODEL).train(max_steps=20, alignment="none", progress=False)
    before = peak_memory()
    start, busy = time.perf_counter(), time.process_time()
    table = samsvae.discoveries(model, cells, n_particles=given.particles, progress=False)
    print(
        f"discoveries: {len(table):,} rows by {given.particles} particles in "
        f"{time.perf_counter() - start:.0f} s, {time.process_time() - busy:.0f} s of processors, "
        f"{torch.get_num_threads()} threads; peak memory "
        f"{peak_memory():.1f} GiB, {before:.1f} GiB before",
        flush=True,
    )
    pairs = ["+".join(pair) for pair in combinations(cells.perturbations, 2)]
    some = pairs[:: max(1, len(pairs) // given.pairs)][: given.pairs]
    start, busy = time.perf_counter(), time.process_time()
    tables = samsvae.combinations(model, None, some, n_particles=100, progress=False)
    n_rows = sum(map(len, tables))
    each = (time.perf_counter() - start) / len(some)
    print(
        f"combinations: {len(some):,} of {len(pairs):,} pairs, {n_rows:,} rows by 100 particles, "
        f"{1e3 * each:.1f} ms a pair ({1e3 * (time.process_time() - busy) / len(some):.1f} of "
        f"processors); all would take {each * len(pairs) / 60:.0f} minutes; peak memory "
        f"{peak_memory():.1f} GiB",
        flush=True,
    )


def real(path: str) -> None:
    """Print how the model's interactions compare with those that cells show."""
    cells = samsvae.read_h5ad(path, split_key="split", library_size_key="total_counts")
    model = samsvae.SAMSVAE(cells, n_latent=50, n_hidden=128)
    model.train(max_steps=2000, progress=False)
    pairs = [name for name in cells.conditions if "+" in name]
    start = time.perf_counter()
    given = {"library_size": "observed", "n_particles": 500, "progress": False}
    table = pd.concat(samsvae.combinations(model, cells, pairs, **given))  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    called = table["lfsr"] < 0.05
    print(
        f"{len(pairs)} pairs, {len(table):,} rows in {seconds:.0f} s; {called.sum()} interactions "
        f"at lfsr < 0.05, in {table.loc[called, 'condition'].nunique()} pairs"
    )
    for name, rows in (("all rows", table), ("called", table[called])):
        print(
            f"{name}: correlation of deviation with what cells show "
            f"{rows['deviation'].corr(rows['observed_deviation']):.3f}, same sign "
            f"{(np.sign(rows['deviation']) == np.sign(rows['interaction'])).mean():.3f}; "
            f"of predicted with observed effects {rows['predicted'].corr(rows['observed']):.3f}, "
            f"of the sum of the parts {rows['additive'].corr(rows['observed']):.3f}"
        )
    most = table[called].groupby("condition", observed=True).size().sort_values(ascending=False)
    print(most.head(10).to_string())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conditions", type=int, default=700)
    parser.add_argument("--genes", type=int, default=5000)
    parser.add_argument("--cells", type=int, default=50, help="of each condition")
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=2000, help="that are timed")
    parser.add_argument("--screen", help="a real one, with a split")
    given = parser.parse_args()
    if given.screen:
        real(given.screen)
    else:
        large(given)
