"""Whether inclusion probabilities mean what they say: `python benchmarks/calibration.py`.

Screens are simulated whose decoder mixes all latent dimensions, and as many null screens whose
labels are dealt anew. Of the pairs called at probability p the share p should be true; in a null
screen none should be called. With --programs the screens are those of another simulator (that of
benchmarks/regimes.py), of 8 to 60 perturbations, a third as many programs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import samsvae
from regimes import drawn, screen_of
from samsvae.analysis.agreement import matched_truth
from samsvae.data.simulate import SimulatedScreen, simulated_screen

BINS = np.array([0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1])
"""Of the table; the expected calibration error has ten bins of equal width."""


def null(screen: SimulatedScreen, seed: int) -> samsvae.Screen:
    """Return the same cells, their labels dealt anew."""
    order = np.random.default_rng(seed).permutation(len(screen))
    return replace(screen, dosage=screen.dosage[order], condition=screen.condition[order])


def fitted(screen: samsvae.Screen, steps: int, seed: int, *, n_latent: int = 20) -> samsvae.SAMSVAE:
    """Return a model, with twice the true latent dimensions of the simulated screens."""
    model = samsvae.SAMSVAE(screen, n_latent=n_latent, n_hidden=64, n_hidden_embedding=64)
    settings: dict[str, Any] = {"n_particles": 2, "learning_rate": 5e-3, "progress": False}
    return model.train(max_steps=steps, seed=seed, **settings)


def binned(probability: np.ndarray, true: np.ndarray, edges: np.ndarray) -> pd.DataFrame:
    """Return what is called and what is true, by bin of the probability."""
    bins = np.clip(np.digitize(probability, edges) - 1, 0, len(edges) - 2)
    table = pd.DataFrame({"bin": bins, "called": probability, "true": true})
    table = table.groupby("bin").agg(
        pairs=("true", "size"), called=("called", "mean"), true=("true", "mean")
    )
    return table.set_index(pd.Index([f"{edges[i]:g} to {edges[i + 1]:g}" for i in table.index]))


def calibration_error(probability: np.ndarray, true: np.ndarray) -> float:
    """Return the mean over pairs of |called - true| of their bin, of ten."""
    table = binned(probability, true, np.linspace(0, 1, 11))
    return float(((table["called"] - table["true"]).abs() * table["pairs"]).sum() / len(true))


def by_number_of_perturbations(seeds: range, steps: int, n_latent: int) -> pd.DataFrame:
    """Return how many mechanisms of another simulator are found, and how many are true."""
    rows = []
    for n, seed in product((8, 16, 30, 60), seeds):
        n_programs = max(2, n // 3)
        cells = drawn(seed, n_perturbations=n, n_inert=n // 5, n_programs=n_programs)
        model = fitted(screen_of(cells, cells.counts()), steps, seed, n_latent=n_latent)
        called = model.mask_probabilities()
        true = cells.activity[1:] != 0
        p = called.to_numpy()
        matched = matched_truth(p > 0.5, true)
        sure = p > 0.9
        rows.append(
            {
                "perturbations": n,
                "seed": seed,
                "sure": sure.sum(),
                "precision": matched[sure].mean() if sure.any() else 1.0,
                "recall": (matched & sure).sum() / true.sum(),
                "inert": int(sure[~true.any(1)].sum()),
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Train on simulated and on null screens, and print what is called and what is true."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--screens", type=int, default=20)
    parser.add_argument("--null-screens", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/calibration.csv"))
    parser.add_argument("--programs", action="store_true", help="screens of another simulator")
    parser.add_argument("--n-latent", type=int, default=40, help="with --programs")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if given.programs:
        seeds = range(given.first_seed, given.first_seed + given.screens)
        found = by_number_of_perturbations(seeds, given.steps, given.n_latent)
        found.to_csv(given.out, index=False)
        means = found.drop(columns="seed").groupby("perturbations").agg(["mean", "min", "max"])
        print(means.round(3).to_string())
        return
    probability, truth = [], []
    for seed in range(given.first_seed, given.first_seed + given.screens):
        screen = simulated_screen(decoder="mixed", seed=seed)
        called = fitted(screen, given.steps, seed).mask_probabilities().to_numpy()
        probability.append(called.ravel())
        truth.append(matched_truth(called > 0.5, screen.truth.mask.to_numpy()).ravel())
    p, true = np.concatenate(probability), np.concatenate(truth)
    table = binned(p, true, BINS)
    table.to_csv(given.out, index_label="probability")
    print(table.round(3).to_string())
    print(f"expected calibration error: {calibration_error(p, true):.4f}")
    for seed in range(given.first_seed, given.first_seed + given.null_screens):
        made = simulated_screen(decoder="mixed", n_combinations=0, seed=seed)
        found = fitted(null(made, seed), given.steps, seed).inclusion()
        prior = np.log(found["prior"]) - np.log1p(-found["prior"])
        raised = (found["log_odds"] - prior > 1).mean()
        print(
            f"null screen {seed}: largest probability {found['probability'].max():.2g}, log odds "
            f"raised by more than 1: {raised:.2%}"
        )


if __name__ == "__main__":
    main()
