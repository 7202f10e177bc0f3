"""Counts that stay in their file: memory, speed, and what mixing by blocks costs.

`benchmarks/on_disk.py [--cells 1000000] [--screen screen.h5ad]`. A store is written (1.7 GB for a
million cells), and a model is trained from it and from memory, each in a process of its own, by
turns. With a screen, it is written in the order of its perturbations, and the validation ELBO after
the same steps is compared: cells mixed over all of them, within windows, and not at all. With
--processes 2, only this is timed: two processes of one thread each against one of two threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_h5ad, write_elem

N_GENES, N_PERTURBATIONS, DENSITY = 2000, 1000, 0.1
ROWS = 10_000
SIZES = {"n_latent": 50, "n_hidden": 128}


def write_store(path: Path, n_cells: int) -> None:
    """Write a store of random counts, some rows at a time, as anndata lays it out."""
    rng = np.random.default_rng(0)
    share = rng.beta(0.5, 0.5 / DENSITY, N_GENES).astype(np.float32)
    label = rng.integers(-100, N_PERTURBATIONS, n_cells)
    names = ["control", *(f"P{i:04d}" for i in range(N_PERTURBATIONS))]
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical.from_codes(np.maximum(label, -1) + 1, names),
            "split": pd.Categorical.from_codes(
                rng.choice(3, n_cells, p=[0.64, 0.01, 0.35]), ["train", "valid", "test"]
            ),
        },
        index=pd.RangeIndex(n_cells).astype(str),
    )
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = (n_cells, N_GENES)
        data = group.create_dataset("data", (0,), np.float32, maxshape=(None,), chunks=(2**16,))
        indices = group.create_dataset("indices", (0,), np.int32, maxshape=(None,), chunks=(2**16,))
        widths = []
        for start in range(0, n_cells, ROWS):
            mask = rng.random((min(ROWS, n_cells - start), N_GENES), np.float32) < share
            mask[:, 0] = True  # no cell is empty
            column = np.nonzero(mask)[1]
            widths.append(mask.sum(1))
            for dataset, values in (
                (indices, column),
                (data, rng.geometric(0.7, len(column))),
            ):
                size = dataset.shape[0]
                dataset.resize(size + len(column), 0)
                dataset[size:] = values
        group["indptr"] = np.concatenate([[0], np.cumsum(np.concatenate(widths), dtype=np.int64)])


def trained(path: Path, *, in_memory: bool, n_steps: int, n_threads: int = 2) -> dict[str, float]:
    """Train in this process; return times and the memory that it took at most."""
    import torch

    import samsvae
    from measure import peak_memory

    torch.set_num_threads(n_threads)
    start = time.perf_counter()
    screen = samsvae.Screen.open(path, split_key="split", in_memory=in_memory)
    opened = time.perf_counter()
    model = samsvae.SAMSVAE(screen, **SIZES)
    made = time.perf_counter()
    model.train(max_steps=n_steps, validate_every=n_steps // 4, alignment="none", progress=False)
    return {
        "open_s": opened - start,
        "model_s": made - opened,
        "cells_per_second": float(model.history["cells_per_second"].iloc[1:].median()),
        "peak_GiB": peak_memory(),
    }


def reading(path: Path, n_batches: int = 320) -> pd.DataFrame:
    """Return how fast batches of 512 are read: by us, and by scdataset, where it is installed."""
    import torch

    from samsvae.data.source import PrefetchedSource, StoredCounts
    from samsvae.storage.anndata_files import StoredMatrix
    from samsvae.train.batches import BLOCK, WINDOW, BlockOrder

    torch.set_num_threads(1)
    ways = {}
    with h5py.File(path) as file:
        n_cells, n_genes = (int(n) for n in file["X"].attrs["shape"])
        counts = StoredCounts(StoredMatrix(file["X"], (n_cells, n_genes), "X"), counts=True)
    order = BlockOrder(n_cells, 0)
    source = PrefetchedSource(counts, order.windows(0, 512))
    ways["samsvae"] = (source.rows(order.of_step(i, 512)) for i in range(n_batches))
    try:
        from scdataset import BlockShuffling, scDataset
    except ImportError:
        print("scdataset is not installed: pip install --no-deps scdataset==0.3.0")
    else:
        matrix = read_h5ad(path, backed="r").X

        class Rows:
            def __len__(self) -> int:
                return n_cells

            def __getitem__(self, rows: np.ndarray) -> object:
                return matrix[rows]

        ways["scdataset"] = iter(
            scDataset(
                Rows(),
                BlockShuffling(block_size=BLOCK),
                batch_size=512,
                fetch_factor=WINDOW // 512,
                batch_transform=lambda rows: torch.from_numpy(rows.toarray()),
            )
        )
    rows = []
    for name, batches in ways.items():
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(n_batches):
            next(batches)
        n_read = n_batches * 512
        rows.append(
            {
                "by": name,
                "cells_per_second": n_read / (time.perf_counter() - start),
                "cells_per_cpu_second": n_read / (time.process_time() - start_cpu),
            }
        )
    return pd.DataFrame(rows)


def together(store: Path, n_processes: int, n_steps: int, repeats: int) -> pd.DataFrame:
    """Return how fast as many processes train as one process with as many threads, by turns."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    ways = {1: ([], n_processes), n_processes: (torchrun, 1)}
    rows = []
    for _ in range(repeats):
        for n, (started_by, n_threads) in ways.items():
            command = [sys.executable, *started_by, __file__, "--one", "memory"]
            command += ["--store", str(store), "--steps", str(n_steps)]
            done = subprocess.run(
                [*command, "--threads", str(n_threads)], capture_output=True, check=True
            )
            # Each process prints what it found, and their lines may run into each other.
            first, _ = json.JSONDecoder().raw_decode(
                done.stdout[done.stdout.index(b"{") :].decode()
            )
            speed = first["cells_per_second"]
            rows.append({"processes": n, "threads": n_threads, "cells_per_second": speed})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def ordered(path: Path, out: Path) -> None:
    """Write a screen in the order of its perturbations."""
    adata = read_h5ad(path)
    adata[adata.obs["perturbation"].astype(str).argsort(kind="stable").to_numpy()].write_h5ad(out)


def mixing(path: Path, seeds: range, n_steps: int) -> pd.DataFrame:
    """Return the validation ELBO after the same steps, by how cells are mixed."""
    import samsvae
    from samsvae.train import loop
    from samsvae.train.batches import BlockOrder, EpochOrder

    screen = samsvae.Screen.open(path, split_key="split")
    n = len(screen.train)
    orders = {
        "all cells": lambda seed: EpochOrder(n, seed),
        "windows of 16,384": lambda seed: BlockOrder(n, seed),
        "windows of 2,048": lambda seed: BlockOrder(n, seed, window=2048),
        "as they lie": lambda seed: BlockOrder(n, seed, block=n, window=512),
    }
    rows = []
    for seed in seeds:
        for name, order in orders.items():
            loop.order_of = lambda cells, seed, order=order: order(seed)
            model = samsvae.SAMSVAE(screen, **SIZES)
            model.train(max_steps=n_steps, seed=seed, progress=False)
            elbo = float(model.history["valid_elbo"].max())
            rows.append({"cells are mixed over": name, "seed": seed, "valid_elbo": elbo})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--screen", type=Path, help="a screen with a split, for what mixing costs")
    parser.add_argument("--store", type=Path, help="an existing store, or where to keep it")
    parser.add_argument("--processes", type=int, help="how many, against as many threads")
    parser.add_argument("--one", choices=["disk", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        in_memory = given.one == "memory"
        found = trained(
            given.store, in_memory=in_memory, n_steps=given.steps, n_threads=given.threads
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder) / "store.h5ad"
        if given.cells and not store.exists():
            start = time.perf_counter()
            write_store(store, given.cells)
            print(f"{store.stat().st_size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s")
        if given.processes:
            table = together(store, given.processes, given.steps, given.repeats)
            speed = table.groupby("processes")["cells_per_second"].median()
            ratio = speed[given.processes] / speed[1]
            print(f"{given.processes} processes train at {ratio:.2f} of the speed of one")
            return
        rows = []
        for _ in range(given.repeats if given.cells else 0):
            for one in ("disk", "memory"):
                command = [sys.executable, __file__, "--one", one, "--store", str(store)]
                done = subprocess.run(
                    [*command, "--steps", str(given.steps)], capture_output=True, check=True
                )
                rows.append({"counts": one, **json.loads(done.stdout.splitlines()[-1])})
                print(rows[-1], flush=True)
        if given.cells:
            print(reading(store).round(0).to_string(index=False))
        if rows:
            print(pd.DataFrame(rows).groupby("counts").median().round(2).to_string())
        if given.screen:
            path = Path(folder) / "ordered.h5ad"
            ordered(given.screen, path)
            table = mixing(path, range(3), 2000)
            means = table.groupby("cells are mixed over", sort=False)["valid_elbo"]
            print(means.agg(["mean", "std"]).round(3).to_string())


if __name__ == "__main__":
    main()
