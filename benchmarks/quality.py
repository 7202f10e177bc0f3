"""Time until a validation ELBO is reached: `python benchmarks/quality.py DATA.h5ad`."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import samsvae
from measure import Table, yardstick
from samsvae import objective
from samsvae.data.loader import Loader
from samsvae.train.step import draw_noise


def measured_elbo(model: samsvae.SAMSVAE, screen: samsvae.Screen, n_particles: int) -> float:
    """Return the validation ELBO from many draws, nats per cell."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    with torch.no_grad():
        for batch in Loader(screen.valid).in_order(512):
            noise = draw_noise(model.module, batch, n_particles, generator)
            shifts = model.module.mechanism.draw(batch.dosage.columns, noise[0])
            weights = model.module(batch, shifts, noise[1])
            total += objective.elbo(weights, batch).double().sum().item()
    return total / len(screen.valid)


def main() -> None:
    """Train with the defaults, on ever more steps' budget, and time the first that is enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--elbo", type=float, default=-189.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/quality.csv"))
    given = parser.parse_args()
    screen = samsvae.read_h5ad(given.data, split_key="split")
    table = Table(given.out)
    reached = []
    for seed in range(given.seeds):
        model = samsvae.SAMSVAE(screen, n_latent=50, n_hidden=128)
        unit = yardstick()
        # What a phase of training reaches depends on how long it is: so each budget is trained.
        for steps in range(600, 4001, 200):
            start = time.perf_counter()
            model.train(max_steps=steps, seed=seed, progress=False)
            seconds = time.perf_counter() - start
            elbo = measured_elbo(model, screen, 50)
            if elbo >= given.elbo or steps == 4000:
                break
        table.add(f"seed {seed}", [seconds], unit, steps=steps, valid_elbo=elbo)
        reached.append(seconds / unit)
    print(f"median: {statistics.median(reached):.0f} U")
    table.write()


if __name__ == "__main__":
    main()
