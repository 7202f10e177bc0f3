"""Time likelihoods and effects: `python benchmarks/inference.py [--quick]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import samsvae
from measure import Table, peak_memory, products, yardstick
from screens import screen
from shapes import SHAPES, WIDTH, Shape


def trained(shape: Shape, n_cells: int) -> tuple[samsvae.SAMSVAE, samsvae.Screen]:
    """Return a model of one step's training, and its screen, with 20 perturbations."""
    simulated = screen(shape._replace(n_perturbations=20), n_cells)
    model = samsvae.SAMSVAE(
        simulated,
        n_latent=shape.n_latent,
        n_hidden=WIDTH,
        n_hidden_embedding=shape.width_embedding,
        n_layers_embedding=shape.n_layers_embedding,
    )
    return model.train(max_steps=1, progress=False), simulated


def peak_of(n_particles: int) -> float:
    """Return the peak memory, GiB, of a process that takes the IWELBO of norman's shape."""
    code = (
        "from inference import *; model, cells = trained(SHAPES['norman'], 256); "
        f"model.iwelbo(cells.train, n_particles={n_particles}, progress=False); "
        "print(peak_memory())"
    )
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Time what docs/performance.md lists, per million of (cell or condition, particle)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the particles")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/inference.csv"))
    given = parser.parse_args()
    table = Table(given.out)
    for name, shape in SHAPES.items():
        n_cells, n_particles = 1024, 5 if given.quick else 25
        model, cells = trained(shape, n_cells)
        unit = yardstick()

        def iwelbo(k: int = n_particles, model=model, cells=cells) -> None:
            model.iwelbo(cells.train, n_particles=k, progress=False)

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
        conditions, n_particles = cells.conditions[1:], 100 if given.quick else 400
        for kind in ("log", "normalized"):
            start = time.perf_counter()
            model.effects(
                conditions, scale=kind, n_particles=n_particles, n_draws=0, progress=False
            )
            scale = 1e6 / (len(conditions) * n_particles)
            seconds = scale * (time.perf_counter() - start)
            table.add(f"effects {name}, {kind}, 1e6 (condition, particle)", [seconds], unit)
    if not given.quick:
        few, many = peak_of(100), peak_of(10_000)
        print(f"iwelbo norman, peak memory: {few:.2f} GiB at K = 100, {many:.2f} at K = 10,000")
    table.write()


if __name__ == "__main__":
    main()
