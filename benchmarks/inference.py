"""Time likelihoods and effects: `python benchmarks/inference.py [--quick]`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import samsvae
from measure import Table, peak_memory, products, yardstick
from shapes import SHAPES, WIDTH, Shape


def trained(shape: Shape, n_cells: int) -> tuple[samsvae.SAMSVAE, samsvae.Screen]:
    """Return a model of one step's training, and its screen, with 20 perturbations."""
    batch = shape._replace(n_perturbations=20).batch(n_cells)
    label = np.array(["control", *(f"p{t}" for t in range(1, 20))])
    given = batch.dosage.perturbations[batch.dosage.position[:, 0]].numpy()
    counts = batch.counts.numpy()
    counts[:, 0] += 1
    obs = pd.DataFrame({"perturbation": label[given]}, [f"cell{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(shape.n_genes)])
    screen = samsvae.Screen.from_anndata(AnnData(counts, obs=obs, var=var))
    screen = screen.with_split(["train"] * n_cells)
    model = samsvae.SAMSVAE(
        screen,
        n_latent=shape.n_latent,
        n_hidden=WIDTH,
        n_hidden_embedding=shape.width_embedding,
        n_layers_embedding=shape.n_layers_embedding,
    )
    return model.train(max_steps=1, progress=False), screen


def main() -> None:
    """Time what docs/performance.md lists, per million of (cell or condition, particle)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the particles")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/inference.csv"))
    given = parser.parse_args()
    table = Table(given.out)
    for name, shape in SHAPES.items():
        n_cells, n_particles = 1024, 5 if given.quick else 25
        model, screen = trained(shape, n_cells)
        unit = yardstick()

        def iwelbo(k: int = n_particles, model=model, screen=screen) -> None:
            model.iwelbo(screen.train, n_particles=k, progress=False)

        floor = products(iwelbo)
        start = time.perf_counter()
        floor.run()
        of_products = time.perf_counter() - start
        start = time.perf_counter()
        iwelbo()
        seconds = time.perf_counter() - start
        scale = 1e6 / (n_cells * n_particles)
        table.add(
            f"iwelbo {name}, 1e6 (cell, particle)",
            [scale * seconds],
            unit,
            to_products=seconds / of_products,
            GiB=peak_memory(),
        )
        conditions, n_particles = screen.conditions[1:], 100 if given.quick else 400
        for kind in ("log", "normalized"):
            start = time.perf_counter()
            model.effects(
                conditions, scale=kind, n_particles=n_particles, n_draws=0, progress=False
            )
            scale = 1e6 / (len(conditions) * n_particles)
            seconds = scale * (time.perf_counter() - start)
            table.add(f"effects {name}, {kind}, 1e6 (condition, particle)", [seconds], unit)
    table.write()


if __name__ == "__main__":
    main()
