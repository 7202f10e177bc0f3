"""All that a GPU does, in one command: `python benchmarks/gpu.py [--device cuda] [--quick]`.

Training steps (recorded, plain, with products in TF32 and bfloat16), a training run with its
validation and inclusion update, IWELBO, effects and discoveries, each beside the same on the CPU:
seconds, how many times as fast, and how far the numbers are from the CPU's. Ends with a table in
Markdown, to be pasted into an issue. `--device cpu --quick` tries the script itself.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable
from functools import partial

import samsvae  # before torch, which it tells how to wait

# isort: split
import numpy as np
import torch

from measure import seconds
from shapes import SHAPES
from step import training

ROWS: list[tuple[str, ...]] = []


def add(what: str, cpu: float, device: float, difference: str = "") -> None:
    """Print a row as it is measured."""
    ROWS.append((what, f"{cpu:.3g}", f"{device:.3g}", f"{cpu / device:.1f}", difference))
    print("  ".join(ROWS[-1]), flush=True)


def steps(device: str, *, quick: bool) -> None:
    """Time training steps of the paper's shapes."""
    variants = ["plain", "bfloat16"] if device == "cpu" else ["graph", "plain", "bfloat16"]
    repeats = 3 if quick else 30
    for name, shape in SHAPES.items():
        for n_particles in (1, 5):
            cpu = statistics.median(
                seconds(training(shape, n_particles, torch.device("cpu")), repeats=repeats)
            )
            for precision in ("highest", "high"):
                torch.set_float32_matmul_precision(precision)
                for variant in variants:
                    work = training(shape, n_particles, torch.device(device), variant)
                    took = statistics.median(seconds(work, repeats=repeats, device=device))
                    tf32 = ", TF32" if precision == "high" else ""
                    add(f"step, {name}, {n_particles} particles, {variant}{tf32}", cpu, took)
            torch.set_float32_matmul_precision("highest")
        if quick:
            break


def asked(
    model: samsvae.SAMSVAE, screen: samsvae.Screen, *, quick: bool
) -> dict[str, Callable[[], np.ndarray]]:
    """Return the questions to a model, by name."""
    few = {"progress": False, "n_particles": 20 if quick else 100}
    many = {"progress": False, "n_particles": 200 if quick else 2500}
    return {
        "IWELBO": lambda: model.iwelbo(screen.test, **few)["iwelbo"].to_numpy(),
        "effects, lfc": lambda: model.effects(scale="lfc", **many).X,
        "effects, log": lambda: model.effects(scale="log", **many).X,
        "discoveries": lambda: (
            samsvae.discoveries(model, screen, progress=False)
            .sort_values(["condition", "gene"])["estimate"]
            .to_numpy()
        ),
    }


def questions(device: str, folder: str, *, quick: bool) -> None:
    """Time training and the questions to a model, and compare the answers."""
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=20, n_combinations=5, n_genes=200 if quick else 1000, seed=0
    )
    n_steps = 50 if quick else 500

    def elbo(where: str) -> np.ndarray:
        model = samsvae.SAMSVAE(screen, n_latent=20, n_hidden=128)
        model.train(max_steps=n_steps, device=where, patience=0, progress=False)
        model.save(folder)
        return model.history["valid_elbo"].to_numpy()[-1:]

    what = "training, with validation and inclusion update"
    compare(what, partial(elbo, "cpu"), partial(elbo, device), device)
    models = [samsvae.load(folder, device=where) for where in ("cpu", device)]  # the same
    on_cpu, on_device = (asked(model, screen, quick=quick) for model in models)
    for what, work in on_cpu.items():
        compare(what, work, on_device[what], device)


def compare(
    what: str, on_cpu: Callable[[], np.ndarray], on_device: Callable[[], np.ndarray], device: str
) -> None:
    """Add a row: the faster of two calls of each, after one that is not counted."""
    difference = np.abs(on_cpu() - on_device()).mean()
    cpu, own = (
        min(seconds(work, repeats=2, device=where))
        for work, where in ((on_cpu, "cpu"), (on_device, device))
    )
    add(what, cpu, own, f"{difference:.2g}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few repeats, small screens")
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: --device cpu --quick tries the script itself")
    steps(given.device, quick=given.quick)
    with tempfile.TemporaryDirectory() as folder:
        questions(given.device, folder, quick=given.quick)
    gpu = "no GPU" if given.device == "cpu" else torch.cuda.get_device_name()
    print(f"\n{gpu}; {platform.processor() or platform.machine()}, torch {torch.__version__}\n")
    print("| | CPU, s | device, s | times as fast | mean difference |\n|---|---|---|---|---|")
    for row in ROWS:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
