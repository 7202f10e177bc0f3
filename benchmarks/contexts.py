"""Find the perturbations that act in one of two contexts alone, and what that costs.

Counts are simulated apart from the package: gene programs on log shares, basal variation, negative
binomial noise. Of 12 perturbations 3 do nothing, 3 act in context B alone (0 with --null), and the
pairs of 3 of the others with B are without training cells. Beside the model with contexts is one
that takes contexts as batches, whose effects are shared.

    python benchmarks/contexts.py --seeds 10
"""

from __future__ import annotations

import argparse
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

import samsvae

N_GENES, N_PERTURBATIONS, N_PROGRAMS, DEPTH = 150, 12, 4, 900.0


class Simulated:
    """A screen of two contexts, with its true effects."""

    def __init__(self, seed: int, *, n_deviating: int, n_cells: int = 60) -> None:
        rng = np.random.default_rng(seed)
        self.base = rng.normal(0, 1, N_GENES)
        self.basal = rng.normal(0, 0.4, (3, N_GENES)) * (rng.random((3, N_GENES)) < 0.25)
        self.theta = np.exp(rng.uniform(np.log(2), np.log(20), N_GENES))
        program = np.zeros((N_PROGRAMS, N_GENES))
        for own in program:
            genes = rng.choice(N_GENES, 24, replace=False)
            own[genes] = rng.choice([-1, 1], 24) * rng.uniform(0.3, 1.0, 24)
        self.names = [f"P{i:02d}" for i in range(N_PERTURBATIONS)]
        loading = np.zeros((N_PERTURBATIONS, N_PROGRAMS))
        for i in range(N_PERTURBATIONS - 3):
            loading[i, i % N_PROGRAMS] = rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
            if rng.random() < 0.3:
                loading[i, (i + 1) % N_PROGRAMS] = rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
        order = rng.permutation(N_PERTURBATIONS - 3)
        self.deviating = {self.names[i] for i in order[:n_deviating]}
        self.held = {(self.names[i], "B") for i in order[n_deviating : n_deviating + 3]}
        self.shift = {"A": np.zeros(N_GENES), "B": rng.normal(0, 0.5, N_GENES)}
        self.shift["B"] *= rng.random(N_GENES) < 0.5
        self.change = {
            (name, context): row @ program * (context == "B" or name not in self.deviating)
            for name, row in zip(self.names, loading, strict=True)
            for context in "AB"
        }
        pairs = [("control", context) for context in "AB" for _ in range(250)]
        pairs += [key for key in self.change for _ in range(n_cells)]
        counts = np.concatenate([self._cells(*key, rng) for key in pairs])
        label, context = np.array(pairs).T
        split = rng.choice(["train", "valid", "test"], len(pairs), p=[0.7, 0.15, 0.15]).astype("U6")
        split[[key in self.held for key in pairs]] = "unused"
        obs = pd.DataFrame({"perturbation": label, "context": context, "split": split})
        obs.index = obs.index.astype(str)
        var = pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
        self.adata = anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs, var)

    def _cells(self, name: str, context: str, rng: np.random.Generator) -> np.ndarray:
        log_rate = self.base + rng.normal(size=3) @ self.basal + self.shift[context]
        log_rate = log_rate + self.change.get((name, context), 0)
        size = DEPTH * np.exp(rng.normal(0, 0.35))
        rate = size * np.exp(log_rate) / np.exp(self.base).sum()
        counts: np.ndarray = rng.poisson(rate * rng.gamma(self.theta) / self.theta)[None]
        return counts

    def effect(self, name: str, context: str) -> np.ndarray:
        """Return log2 fold changes of expected shares, relative to the typical gene."""
        rng = np.random.default_rng(0)
        basal = self.base + rng.normal(size=(2000, 3)) @ self.basal + self.shift[context]

        def shares(log_rate: np.ndarray) -> np.ndarray:
            rate = np.exp(log_rate)
            return np.asarray((rate / rate.sum(1, keepdims=True)).mean(0))

        change = np.log2(shares(basal + self.change[name, context]) / shares(basal))
        return np.asarray(change - np.median(change))


def scores(seed: int, n_deviating: int, steps: int, kind: str) -> dict[str, Any]:
    """Train on a simulated screen; return how well context differences are found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    truth = Simulated(seed, n_deviating=n_deviating)
    key = "context_key" if kind == "contexts" else "batch_key"
    screen = samsvae.Screen.from_anndata(truth.adata, split_key="split", **{key: "context"})
    model = samsvae.SAMSVAE(screen, n_latent=15, n_hidden=64)
    model.train(max_steps=steps, progress=False, seed=seed)
    iwelbo = model.iwelbo(screen.test, n_particles=50, progress=False)["iwelbo"].mean()
    row: dict[str, Any] = {"seed": seed, "model": kind, "iwelbo": iwelbo}
    of_kind: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for context in "AB":
        chosen = {"context" if kind == "contexts" else "batch": context}
        table = model.effects(truth.names, n_particles=500, progress=False, **chosen)
        for i, name in enumerate(truth.names):
            group = "one alone" if name in truth.deviating else "shared"
            if (name, context) in truth.held:
                group = "no cells"
            elif name in truth.deviating and context == "A":
                group = "inactive"
            real = truth.effect(name, context)
            inside = (table.layers["lower"][i] <= real) & (real <= table.layers["upper"][i])
            of_kind.setdefault(group, []).append((np.asarray(table.X)[i], real, inside))
    for group, found in of_kind.items():
        estimate, real, inside = (np.concatenate(x) for x in zip(*found, strict=True))
        row[f"r {group}"] = np.corrcoef(estimate, real)[0, 1]
        row[f"rmse {group}"] = np.sqrt(np.square(estimate - real).mean())
        row[f"inside {group}"] = inside.mean()
    if kind == "contexts":
        table = model.context_differences()
        called = set(table.loc[table["probability"] > 0.9, "perturbation"])
        row["called"], row["right"] = len(called), len(called & truth.deviating)
    return row


def main() -> None:
    """Print the scores of all seeds, and their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--null", action="store_true", help="no perturbation deviates")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    tasks = [
        (seed, 0 if given.null else 3, given.steps, kind)
        for seed in range(given.first, given.first + given.seeds)
        for kind in ("contexts", "batches")
    ]
    with ProcessPoolExecutor(given.jobs) as pool:
        table = pd.DataFrame(list(pool.map(scores, *zip(*tasks, strict=True))))
    print(table.round(3).to_string())
    print(table.drop(columns="seed").groupby("model").mean().round(3).T.to_string())


if __name__ == "__main__":
    main()
