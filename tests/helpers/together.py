"""Several processes that train one model: how tests start them, and what each of them does.

As a program, started by torchrun: `together.py OUT KIND` takes steps in double precision.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae.data.loader import Loader
from samsvae.estimators import ESTIMATORS
from samsvae.settings.train import TrainSettings
from samsvae.train import loop
from samsvae.train.processes import Processes, SingleProcess, processes
from samsvae.types import Batch

TESTS = Path(__file__).parents[1]
N_STEPS = 12


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}:{_source()}"}


def _source() -> Path:
    return Path(samsvae.__file__).parents[1]


def torchrun(*arguments: object, n_processes: int = 2) -> list[str]:
    """Return the command that starts several processes of a program, or of `-m module`."""
    ours = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    return [*ours, f"--nproc-per-node={n_processes}", *map(str, arguments)]


def run(*arguments: object, n_processes: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        torchrun(*arguments, n_processes=n_processes),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def double(batch: Batch) -> Batch:
    floats = ("counts", "library_size", "covariates", "cells_per_column")
    dosage = batch.dosage._replace(dose=batch.dosage.dose.double())
    return batch._replace(dosage=dosage, **{n: getattr(batch, n).double() for n in floats})


def steps(kind: str, together: Processes) -> dict[str, torch.Tensor]:
    """Return parameters and metrics after some steps in double precision."""
    screen = samsvae.Screen.from_anndata(make_adata(n_cells=300), split_key="split")
    chosen = next(one for one in ESTIMATORS if one.name == kind)
    names = set(chosen.__dataclass_fields__)
    model = chosen(screen, **{k: v for k, v in SMALL.items() if k in names})
    module = model.module.double()
    train, valid = (Loader(x, encoding=model.encoding) for x in (screen.train, screen.valid))
    settings = TrainSettings(  # a batch that two processes do not share evenly
        max_steps=N_STEPS, batch_size=31, n_particles=2, clip_norm=50.0, progress=False
    )
    training = loop.Training(
        module, train, valid, settings, identity={}, history=[], processes=together
    )
    training.batch = lambda rows: double(train.batch(rows.numpy()))
    for _ in range(N_STEPS):
        training._one_step()
    return {**module.state_dict(), "metrics": torch.stack(training.pending)}


def main() -> None:
    torch.set_num_threads(1)
    out, *kinds = sys.argv[1:]
    found: dict[str, Any] = {}
    with processes(torch.device("cpu")) as together:
        for kind in kinds:
            found |= {f"{kind}.{k}": v for k, v in steps(kind, together).items()}
        assert together.size == 2
    torch.save(found, f"{out}.{together.rank}")


def alone(kind: str) -> dict[str, torch.Tensor]:
    return steps(kind, SingleProcess())


if __name__ == "__main__":
    main()
