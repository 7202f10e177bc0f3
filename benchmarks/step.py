"""Time one training step, its data loading included: `python benchmarks/step.py [--quick]`.

Needs torch and numpy alone on a GPU machine (`--device cuda`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import bare  # noqa: F401  before torch, which samsvae tells how to wait

# isort: split
import torch
from torch import Tensor

from measure import Table, peak_memory, products, seconds, yardstick
from samsvae.ops import native
from samsvae.train.step import (
    CompiledStep,
    CudaRecorder,
    PlainStep,
    Replayed,
    draw_noise,
    parameter_groups,
)
from shapes import SHAPES, Shape

N_CELLS = 4096
"""Cells that batches are taken from."""


def batches(shape: Shape, device: torch.device) -> Callable[[Tensor], object]:
    """Return what assembles batches as training does: by scipy on a CPU, on the device else."""
    if device.type != "cpu":
        return shape.resident(N_CELLS, device).batch
    from samsvae.data.loader import Loader
    from screens import screen  # needs all of samsvae

    loader = Loader(screen(shape, N_CELLS))
    return lambda rows: loader.batch(rows.numpy())


def training(
    shape: Shape, n_particles: int, device: torch.device, variant: str = "plain"
) -> Callable[[], Tensor]:
    """Return a function that takes one step on cells drawn anew."""
    model = shape.model().to(device)
    graph = variant == "graph"
    optimizer = torch.optim.Adam(
        parameter_groups(model, 3e-3), weight_decay=1e-6, fused=True, capturable=graph
    )
    kind = CompiledStep if variant == "compiled" else PlainStep
    # As `train` does by default.
    step = kind(model, optimizer, closed_form=True, bfloat16=variant == "bfloat16")
    generator = torch.Generator(device).manual_seed(0)
    batch_of = batches(shape, device)

    def work(rows: Tensor) -> Tensor:
        batch = batch_of(rows)
        return step(batch, *draw_noise(model, batch, n_particles, generator))["elbo"]

    run = Replayed(work, CudaRecorder(generator)) if graph else work
    rows = torch.Generator().manual_seed(0)
    return lambda: run(torch.randperm(N_CELLS, generator=rows)[:512].to(device, non_blocking=True))


def rate(work: Callable[[], Tensor], n_steps: int = 500) -> tuple[float, float]:
    """Return a GPU's steps per second, nothing read between them, and the share it was busy."""
    for _ in range(5):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n_steps):
        work()
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        for _ in range(50):
            work()
        torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 50e6
    return n_steps / elapsed, busy * n_steps / elapsed


def main() -> None:
    """Time the steps of the table in docs/performance.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer repeats, one variant")
    parser.add_argument("--profile", action="store_true", help="say what one step is made of")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/step.csv"))
    given = parser.parse_args()
    device, repeats = torch.device(given.device), 7 if given.quick else 25
    usual, table = "plain" if device.type == "cpu" else "graph", Table(given.out)
    for name, shape in SHAPES.items():
        for n_particles in (1, 5):
            floor = products(training(shape, n_particles, device))
            unit = yardstick(given.device)
            of_products = min(seconds(floor.run, repeats=repeats, device=given.device))
            work = training(shape, n_particles, device, usual)
            times = seconds(work, repeats=repeats, device=given.device)
            others = {"products_U": of_products / unit, "to_products": min(times) / of_products}
            if not given.quick and device.type == "cpu":
                served, native.serves = native.serves, lambda *tensors: False
                others["to_plain"] = min(times) / min(seconds(work, repeats=5))
                native.serves = served
            if device.type != "cpu":
                others["steps_per_second"], others["busy"] = rate(work)
            table.add(f"step {name} {n_particles}", times, unit, **others, GiB=peak_memory())
            if given.profile:
                with torch.profiler.profile() as profiled:
                    work()
                print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    replogle = SHAPES["replogle"]
    for variant in [] if given.quick else ["bfloat16", "compiled"]:
        work = training(replogle, 1, device, variant)
        times = seconds(work, repeats=repeats, device=given.device)
        table.add(f"step replogle 1, {variant}", times, yardstick(given.device))
    for n_perturbations in (100, 10_000):
        work = training(replogle._replace(n_perturbations=n_perturbations), 5, device, usual)
        times, unit = seconds(work, repeats=repeats, device=given.device), yardstick(given.device)
        table.add(f"step, {n_perturbations} perturbations", times, unit)
    cells = SHAPES["norman"].resident(N_CELLS, torch.device("cpu")).counts
    share = cells.n_bytes / (4 * N_CELLS * cells.n_columns)
    print(f"resident counts, norman: {share:.3f} of dense float32")
    table.write()


if __name__ == "__main__":
    main()
