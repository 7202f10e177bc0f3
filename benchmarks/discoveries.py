"""Are calls right as often as they say? `benchmarks/discoveries.py [--quick] [--screen FILE]`.

Simulated screens of both kinds, few and many cells, strong and weak effects, and counts and batches
that the model takes for something else (`misspecified.py`); besides, control cells under pretended
labels, whose effects are none. Calls at lfsr and q_value below 5 %, beside those of scanpy's
`rank_genes_groups` (Benjamini-Hochberg within each condition) where scanpy is installed (`pip
install --group bench`), else of the same tests by scipy.

`at_rate` is how many right calls a list has at the longest cut at which 5 % of it are wrong in
truth: what its order is worth, whatever it says of its errors. Cases that stand in the file that
is written are not run again.

With --screen a real one (such as papalexi2021, or norman2019 with its `total_counts`): correlation
with the effects of test cells, beside those of the model, condition means and their sums.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

import samsvae
from misspecified import Case, screen
from samsvae.benchmark.predictions import Predictor
from samsvae.data.expression import expression

KINDS = ("mixed", "programs")
CASES = [
    *(Case(kind, n, 2.0) for kind in KINDS for n in (40, 150, 400)),
    *(Case(kind, 150, 1.0) for kind in KINDS),
    *(
        Case(kind, 150, 2.0, counts=c)
        for c in ("dispersion", "zeros", "lognormal")
        for kind in KINDS
    ),
    *(Case(kind, 150, 2.0, batches=b) for b in ("told", "untold") for kind in KINDS),
]
QUICK = [Case("mixed", 150, 2.0), Case("programs", 40, 2.0, counts="zeros")]
RATE = 0.05


class Calls(NamedTuple):
    """What one way of calling says, `condition gene` each."""

    called: np.ndarray
    effect: np.ndarray
    order: np.ndarray
    """The surest have the smallest."""


def by_scanpy(cells: samsvae.Screen, conditions: list[str]) -> Iterator[tuple[str, Calls]]:
    """Yield what `rank_genes_groups` calls."""
    import scanpy

    warnings.simplefilter("ignore")  # scanpy's own: wide tables, genes that do not vary
    adata = cells.to_anndata()
    adata.X = adata.X.astype(np.float32)
    adata.obs["condition"] = pd.Categorical(
        [cells.condition_names[code] for code in cells.condition]
    )
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    for name, given in {
        "t-test": {"method": "t-test"},
        "wilcoxon": {"method": "wilcoxon"},
        "wilcoxon, ties": {"method": "wilcoxon", "tie_correct": True},
    }.items():
        scanpy.tl.rank_genes_groups(
            adata, "condition", groups=conditions, reference="control", **given
        )
        tables = (
            scanpy.get.rank_genes_groups_df(adata, one).set_index("names").loc[list(cells.genes)]
            for one in conditions
        )
        wide = np.array([t[["scores", "pvals", "pvals_adj"]].to_numpy(float) for t in tables])
        score, p, adjusted = np.nan_to_num(np.moveaxis(wide, 2, 0), nan=1.0)
        yield name, Calls(adjusted < RATE, score, p)


def by_scipy(cells: samsvae.Screen, conditions: list[str]) -> Iterator[tuple[str, Calls]]:
    """Yield what the same tests call without scanpy."""
    values = expression(cells, "log")[:].toarray()
    control = values[cells.is_control]
    own = [values[cells.condition == cells.condition_names.index(name)] for name in conditions]
    effect = np.array([rows.mean(0) - control.mean(0) for rows in own])
    for name, test in (
        ("t-test", lambda rows: ttest_ind(rows, control, equal_var=False).pvalue),
        ("wilcoxon, ties", lambda rows: mannwhitneyu(rows, control, axis=0).pvalue),
    ):
        p = np.nan_to_num(np.array([test(rows) for rows in own]), nan=1.0)
        adjusted = np.array([false_discovery_control(row) for row in p])
        yield name, Calls(adjusted < RATE, effect, p)


def tested(cells: samsvae.Screen, conditions: list[str]) -> dict[str, Calls]:
    """Return what tests call."""
    try:
        import scanpy  # noqa: F401
    except ImportError:
        return dict(by_scipy(cells, conditions))
    return dict(by_scanpy(cells, conditions))


def longest(order: np.ndarray, right: np.ndarray) -> int:
    """Return how many are right of the longest list of which at most 5 % are wrong."""
    hits = np.cumsum(right.ravel()[np.argsort(order.ravel(), kind="stable")])
    n = np.arange(1, len(hits) + 1)
    good = np.flatnonzero(n - hits <= RATE * n)
    return int(hits[good[-1]]) if len(good) else 0


def run(case: Case, n_steps: int) -> pd.DataFrame:
    """Return a row per way of calling: calls, share of wrong ones, right ones."""
    cells, drawing = screen(case)
    model = samsvae.SAMSVAE(cells, n_latent=20, n_hidden=64)
    model.train(max_steps=n_steps, seed=case.seed, progress=False)
    table = samsvae.discoveries(model, cells, scale="log", progress=False)
    conditions = list(model.metadata.conditions[1:])
    sign = np.sign(drawing.true_effects(conditions).to_numpy())
    wide = table.pivot(index="condition", columns="gene", values=["estimate", "lfsr", "q_value"])
    estimate, lfsr, q_value = (
        wide[name].loc[conditions, list(cells.genes)].to_numpy(float)
        for name in ("estimate", "lfsr", "q_value")
    )
    ways = {
        "lfsr": Calls(lfsr < RATE, estimate, lfsr),
        "q_value": Calls(q_value < RATE, estimate, lfsr),
        **tested(cells, conditions),
    }
    rows = []
    for name, calls in ways.items():
        right = (np.sign(calls.effect) == sign) & (sign != 0)
        n, n_right = int(calls.called.sum()), int((calls.called & right).sum())
        wrong = 1 - n_right / max(n, 1) if n else 0.0
        found = {"by": name, "calls": n, "right": n_right, "wrong": wrong}
        rows.append(case._asdict() | found | {"at_rate": longest(calls.order, right)})
    return pd.DataFrame(rows)


def real(path: Path) -> None:
    """Print scores on the test cells of a real screen."""
    columns = ad.read_h5ad(path, backed="r").obs.columns
    size = "total_counts" if "total_counts" in columns else None
    cells = samsvae.read_h5ad(path, split_key="split", library_size_key=size)
    model = samsvae.SAMSVAE(cells, n_latent=50, n_hidden=128)
    model.train(max_steps=2000, seed=0, progress=False)
    predictors: list[Predictor] = [
        samsvae.baselines.ConditionMean(cells),
        samsvae.baselines.Additive(cells),
        model,
        samsvae.EffectPosterior(model, cells),
    ]
    given = {"n_halvings": 0, "n_cells": 0, "n_particles": 10, "progress": False}
    table = samsvae.evaluate(predictors, cells, scale="log", **given)
    table = table[(table["condition"] == "(all)") & (table["split"] == "test")]
    scores = table.pivot(index="metric", columns="predictor", values="value")
    kept = ["ate_pearson", "ate_pearson_observed_size", "rmse", "coverage_90"]
    print(scores.loc[kept].round(4).to_string())


def main() -> None:
    """Print and write the table, of docs/benchmarks/discoveries.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two screens, 500 steps")
    parser.add_argument("--seeds", type=int, default=2, help="screens of each kind")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/discoveries.csv"))
    parser.add_argument("--screen", type=Path, help="a real one, with a split")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.screen:
        real(given.screen)
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(given.out) if given.out.exists() else pd.DataFrame()
    done = {Case(*row) for row in table.reindex(columns=Case._fields).itertuples(index=False)}
    cases = [case._replace(seed=seed) for seed in range(given.seeds) for case in CASES]
    for case in QUICK if given.quick else cases:
        if case in done:
            continue
        rows = run(case, n_steps=500 if given.quick else 2000)
        print(rows.round(3).to_string(index=False, header=table.empty), flush=True)
        table = pd.concat([table, rows], ignore_index=True)
        table.to_csv(given.out, index=False)
    kinds = ["decoder", "cells", "shift_scale", "counts", "batches", "by"]
    means = table.groupby(kinds, sort=False)[["calls", "right", "wrong", "at_rate"]].mean()
    print(means.round(3).to_string())


if __name__ == "__main__":
    main()
