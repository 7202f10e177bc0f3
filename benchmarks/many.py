"""How do time and memory grow with perturbations? `benchmarks/many.py [--perturbations 10000 ...]`.

A screen of so many perturbations with a dozen cells each, 100 genes and 100 latent dimensions: a
few steps of training, then all that is asked of a model, part by part. Nothing of it may grow with
the square of the perturbations.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

import samsvae
from measure import peak_memory

_CELLS = 20_000
"""Whose counts are drawn at a time."""


def screen(n_perturbations: int, n_cells: int, n_genes: int) -> samsvae.Screen:
    """Return a screen of perturbations that change a tenth of the genes each.

    The first ones are named after genes. A tenth of the cells are control cells.
    """
    rng = np.random.default_rng(0)
    share = rng.lognormal(0, 1, n_genes)
    share /= share.sum()
    effect = np.where(
        rng.random((n_perturbations + 1, n_genes), np.float32) < 0.1,
        rng.normal(0, 0.7, (n_perturbations + 1, n_genes)).astype(np.float32),
        np.float32(0),
    )
    effect[0] = 0
    label = np.repeat(np.arange(n_perturbations + 1), n_cells)
    label = np.concatenate([label, np.zeros(len(label) // 9, int)])
    parts = []
    for start in range(0, len(label), _CELLS):
        rate = np.exp(effect[label[start : start + _CELLS]]) * share
        size = rng.lognormal(np.log(300), 0.4, len(rate))
        parts.append(sp.csr_matrix(rng.poisson(rate * size[:, None]), dtype=np.uint16))
    genes = [f"g{i:03d}" for i in range(n_genes)]
    targets = [*genes, *(f"P{i:05d}" for i in range(n_genes, n_perturbations))]
    names = np.array(["control", *targets[:n_perturbations]])
    split = np.array(["train", "train", "train", "valid", "test"])[np.arange(len(label)) % 5]
    obs = pd.DataFrame({"perturbation": names[label], "split": split})
    obs.index = obs.index.astype(str)
    adata = AnnData(sp.vstack(parts, "csr"), obs=obs, var=pd.DataFrame(index=genes))
    return samsvae.Screen.from_anndata(adata, split_key="split", drop_empty_cells=True)


def opened(model: samsvae.SAMSVAE, n_open: int = 3) -> None:
    """Open masks: so few steps open none, and what is said of mechanisms would be nothing."""
    rng = np.random.default_rng(0)
    logits = model.module.mechanism.mask.logits.data
    logits.fill_(-8)
    for row in logits:
        row[rng.choice(len(row), n_open, replace=False)] = 4


@contextmanager
def part(name: str) -> Iterator[None]:
    """Print what a part takes: time, and the memory that the process holds at most meanwhile."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this part alone
    start, busy = time.perf_counter(), time.process_time()
    yield
    print(
        f"{name:<44} {time.perf_counter() - start:7.1f} s {time.process_time() - busy:7.1f} s of "
        f"processors {peak_memory():6.2f} GiB",
        flush=True,
    )


def main() -> None:
    """Print time and memory of each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--perturbations", type=int, default=10_000)
    parser.add_argument("--cells", type=int, default=12, help="of each perturbation")
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--latent", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--particles", type=int, default=500, help="of effects")
    parser.add_argument("--halvings", type=int, default=20)
    given = parser.parse_args()
    particles = given.particles
    print(f"{torch.get_num_threads()} threads", flush=True)
    with part("screen"):
        cells = screen(given.perturbations, given.cells, given.genes)
    print(cells, flush=True)
    with part(f"training, {given.steps} steps"):
        model = samsvae.SAMSVAE(cells, n_latent=given.latent, n_hidden=400)
        model.train(max_steps=given.steps, alignment="none", progress=False)
    opened(model)
    predictors = [model, *(kind(cells) for kind in samsvae.baselines.BASELINES)]
    with part(f"evaluate, {len(predictors)} predictors, {given.halvings} halvings"):
        scores = samsvae.evaluate(
            predictors,
            cells,
            scale="log",
            n_halvings=given.halvings,
            effect_particles=particles,
            progress=False,
        )
    names = list(cells.perturbations)
    with part("discoveries of 50 conditions"):
        samsvae.discoveries(model, cells, names[:50], n_particles=particles, progress=False)
    with part("discoveries of all"):
        table = samsvae.discoveries(model, cells, n_particles=particles, progress=False)
    with part("similar"):
        samsvae.similar(table, names[0])
    with part("regulators"):
        samsvae.regulators(table, cells.genes[0])
    del table
    with part("inclusion"):
        model.inclusion()
    with part("mechanisms"):
        mechanisms = model.mechanisms()
    with part("perturbation_space, 200 particles"):
        samsvae.export.perturbation_space(model, n_particles=200, n_draws=0, progress=False)
    with part("programs"):
        model.programs(progress=False)
    print(f"{len(mechanisms)} mechanisms", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        with part("save and load"):
            model.save(f"{folder}/run")
            samsvae.load(f"{folder}/run")
        with part("report"):
            path = samsvae.write_report(
                f"{folder}/run", cells, scores=scores, n_particles=particles, progress=False
            )
        print(f"report.html: {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
