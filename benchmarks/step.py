"""Time one training step: `python benchmarks/step.py [--quick] [--profile]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from measure import Table, peak_memory, products, seconds, yardstick
from samsvae.ops import native
from samsvae.train.step import PlainStep, draw_noise
from shapes import SHAPES, Shape


def training(shape: Shape, n_particles: int, *, closed_form: bool = False):
    """Return a function that takes one step, its noise drawn anew, on the same cells."""
    model, batch = shape.model(), shape.batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6, fused=True)
    step = PlainStep(model, optimizer, closed_form=closed_form)
    generator = torch.Generator().manual_seed(0)
    return lambda: step(batch, *draw_noise(model, batch, n_particles, generator))


def main() -> None:
    """Time the steps of the table in docs/performance.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no plain form")
    parser.add_argument("--profile", action="store_true", help="say what one step is made of")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/step.csv"))
    given = parser.parse_args()
    repeats = 7 if given.quick else 25
    table = Table(given.out)
    for name, shape in SHAPES.items():
        for n_particles in (1, 5):
            work = training(shape, n_particles)
            floor = products(work)
            unit = yardstick()
            of_products = min(seconds(floor.run, repeats=repeats))
            times = seconds(work, repeats=repeats)
            others = {"products_U": of_products / unit, "to_products": min(times) / of_products}
            if not given.quick:
                served, native.serves = native.serves, lambda *tensors: False
                others["to_plain"] = min(times) / min(seconds(work, repeats=5))
                native.serves = served
            table.add(f"step {name} {n_particles}", times, unit, **others, GiB=peak_memory())
            if given.profile:
                with torch.profiler.profile() as profiled:
                    work()
                print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    for n_perturbations in (100, 10_000):
        shape = SHAPES["replogle"]._replace(n_perturbations=n_perturbations)
        times, unit = seconds(training(shape, 5), repeats=repeats), yardstick()
        table.add(f"step, {n_perturbations} perturbations", times, unit)
    table.write()


if __name__ == "__main__":
    main()
