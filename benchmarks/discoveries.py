"""Are calls right as often as they say? `benchmarks/discoveries.py [--quick]`.

Simulated screens of both kinds, few and many cells, strong and weak effects; besides, control cells
under pretended labels, whose effects are none. Calls at lfsr and q_value below 5 %, beside those of
Welch's and Wilcoxon's tests (Benjamini-Hochberg within each condition, as scanpy does).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

import samsvae
from samsvae.data.expression import expression

CASES = [
    *(("mixed", n, 2.0, seed) for n in (40, 150, 400) for seed in (0, 1)),
    *(("programs", n, 2.0, seed) for n in (40, 150, 400) for seed in (0, 1)),
    *((decoder, 150, 1.0, seed) for decoder in ("mixed", "programs") for seed in (0, 1)),
]
QUICK = [("mixed", 150, 2.0, 0), ("programs", 40, 2.0, 0)]
N_PERTURBATIONS, N_NULL, RATE = 30, 10, 0.05


def screen(
    decoder: str, n_cells: int, scale: float, seed: int
) -> tuple[samsvae.Screen, pd.DataFrame]:
    """Return a screen with some perturbations that do nothing, and the true effects."""
    simulated = samsvae.datasets.simulated_screen(
        decoder=decoder,  # type: ignore[arg-type]
        cells_per_condition=n_cells,
        shift_scale=scale,
        n_combinations=0,
        n_perturbations=N_PERTURBATIONS,
        n_control=1000 + N_NULL * n_cells,
        seed=seed,
    )
    adata = simulated.to_anndata()
    label = adata.obs["perturbation"].astype(object).to_numpy()
    control = np.flatnonzero(simulated.is_control)
    np.random.default_rng(seed).shuffle(control)
    nothing = [f"null{i}" for i in range(N_NULL)]
    for i, name in enumerate(nothing):
        label[control[i * n_cells : (i + 1) * n_cells]] = name
    adata.obs["perturbation"] = label
    truth = simulated.truth.effects(list(simulated.perturbations), n_particles=20_000)
    truth = pd.concat([truth, pd.DataFrame(0.0, nothing, truth.columns)])
    return samsvae.Screen.from_anndata(adata, split_key="split"), truth


def tested(cells: samsvae.Screen, conditions: list[str]) -> dict[str, np.ndarray]:
    """Return whether tests call each condition and gene, `condition gene`."""
    values = expression(cells, "log").toarray()
    control = values[cells.is_control]
    p: dict[str, list[np.ndarray]] = {"welch": [], "wilcoxon": []}
    for name in conditions:
        own = values[cells.condition == cells.condition_names.index(name)]
        p["welch"].append(ttest_ind(own, control, equal_var=False).pvalue)
        p["wilcoxon"].append(mannwhitneyu(own, control, axis=0).pvalue)
    return {
        test: np.array([false_discovery_control(np.nan_to_num(one, nan=1.0)) for one in rows])
        < RATE
        for test, rows in p.items()
    }


def case(decoder: str, n_cells: int, scale: float, seed: int, n_steps: int) -> pd.DataFrame:
    """Return a row per way of calling: calls, share of wrong ones, right ones."""
    cells, truth = screen(decoder, n_cells, scale, seed)
    model = samsvae.SAMSVAE(cells, n_latent=20, n_hidden=64)
    model.train(max_steps=n_steps, seed=seed, progress=False)
    table = samsvae.discoveries(model, cells, progress=False)
    conditions = list(model.facts.conditions[1:])
    sign = np.sign(truth.loc[conditions].to_numpy())
    estimate, observed, lfsr, q_value = (
        table[name].to_numpy().reshape(sign.shape)
        for name in ("estimate", "observed", "lfsr", "q_value")
    )
    calls = {"lfsr": (lfsr < RATE, estimate), "q_value": (q_value < RATE, estimate)}
    calls |= {name: (call, observed) for name, call in tested(cells, conditions).items()}
    rows = []
    for name, (call, effect) in calls.items():
        right = call & (np.sign(effect) == sign) & (sign != 0)
        rows.append(
            {
                "decoder": decoder,
                "cells": n_cells,
                "shift_scale": scale,
                "seed": seed,
                "by": name,
                "calls": call.sum(),
                "right": right.sum(),
                "wrong": 1 - right.sum() / max(call.sum(), 1),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Print and write the table, as docs/discoveries.md tells."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two screens, 500 steps")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/discoveries.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables = []
    for one in QUICK if given.quick else CASES:
        tables.append(case(*one, n_steps=500 if given.quick else 2000))
        print(tables[-1].to_string(index=False, header=len(tables) == 1), flush=True)
    table = pd.concat(tables, ignore_index=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(given.out, index=False)
    means = table.groupby(["decoder", "cells", "shift_scale", "by"])[["calls", "right", "wrong"]]
    print(means.mean().round(3).to_string())


if __name__ == "__main__":
    main()
