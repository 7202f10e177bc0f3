"""Time likelihoods and effects: `python benchmarks/inference.py [--quick]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import samsvae
from measure import Table, peak_memory, products, seconds, yardstick
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
    parser.add_argument("--quick", action="store_true", help="a fifth of the particles of effects")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/inference.csv"))
    given = parser.parse_args()
    table = Table(given.out)
    for name, shape in SHAPES.items():
        n_cells, n_particles = 1024, 120  # as many particles as are drawn at once
        model, cells = trained(shape, n_cells)
        unit = yardstick()

        def iwelbo(k: int = n_particles, model=model, cells=cells) -> None:
            model.iwelbo(cells.train, n_particles=k, progress=False)

        times, memory = seconds(iwelbo, repeats=4), peak_memory()
        floor = min(seconds(products(iwelbo).run, repeats=1))
        scale = 1e6 / (n_cells * n_particles)
        others = {"to_products": min(times) / floor, "GiB": memory}
        what = f"iwelbo {name}, 1e6 (cell, particle)"
        table.add(what, [scale * time for time in times], unit, **others)
        conditions, n_particles = cells.conditions, 500 if given.quick else 2500
        scale = 1e6 / (len(conditions) * n_particles)
        for kind in ("log", "normalized"):

            def effects(k: int = n_particles, model=model, asked=conditions, kind=kind) -> None:
                model.effects(asked, scale=kind, n_particles=k, n_draws=0, progress=False)

            times = seconds(effects, repeats=2)
            what = f"effects {name}, {kind}, 1e6 (condition, particle)"
            table.add(what, [scale * time for time in times], unit)
    if not given.quick:
        few, many = peak_of(100), peak_of(10_000)
        print(f"iwelbo norman, peak memory: {few:.2f} GiB at K = 100, {many:.2f} at K = 10,000")
    table.write()


if __name__ == "__main__":
    main()
