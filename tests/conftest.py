"""Small screens, and where real data are found."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from anndata import AnnData

import samsvae
from samsvae import __main__ as command_line

torch.set_num_threads(1)  # the shapes here are tiny: more threads only wait for each other


def make_adata(
    *, n_cells: int = 240, n_genes: int = 12, seed: int = 0, labels: tuple[str, ...] | None = None
) -> AnnData:
    """Return counts with conditions "control", "A", "B", "C" and "A+B", a split and a batch."""
    rng = np.random.default_rng(seed)
    labels = labels or ("control", "A", "B", "C", "B+A")
    label = np.array(labels)[np.arange(n_cells) % len(labels)]
    rate = rng.gamma(2.0, 2.0, n_genes) + 0.5
    size = rng.lognormal(0, 0.3, n_cells)
    effect = np.ones((n_cells, n_genes))
    effect[np.char.find(label, "A") >= 0, 0] = 4.0
    effect[np.char.find(label, "B") >= 0, 1] = 0.1
    counts = rng.poisson(size[:, None] * rate * effect).astype(np.float32)
    counts[:, -1] += 1  # no cell is empty
    obs = pd.DataFrame(
        {
            "perturbation": label,
            "split": np.array(["train", "train", "train", "valid", "test"])[
                (np.arange(n_cells) // len(labels)) % 5
            ],
            "batch": np.array(["one", "two"])[rng.integers(0, 2, n_cells)],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


@pytest.fixture
def adata() -> AnnData:
    return make_adata()


@pytest.fixture
def screen(adata: AnnData) -> samsvae.Screen:
    return samsvae.Screen.from_anndata(adata, split_key="split")


SMALL = {"n_latent": 4, "n_hidden": 8, "n_hidden_embedding": 6, "mask_prob": 0.1}
"""Hyperparameters of a model that trains in a moment."""


@pytest.fixture(scope="session")
def trained() -> samsvae.SAMSVAE:
    """Return a small trained model. Shared: do not train or change it."""
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split")
    return samsvae.SAMSVAE(screen, **SMALL).train(
        max_steps=200,
        batch_size=64,
        n_particles=2,
        learning_rate=0.01,
        validate_every=20,
        progress=False,
    )


FAILURE_RATE = 1e-5
"""How often the whole suite may fail by chance, were its draws new each time."""
_STATISTICAL_TESTS = 200
"""At least as many as there are: each gets an equal share of that rate."""


def errors(n_comparisons: int = 1) -> float:
    """Return how many standard errors a statistical test allows each of its comparisons."""
    share = FAILURE_RATE / _STATISTICAL_TESTS / n_comparisons
    return float(scipy.stats.norm.isf(share / 2))


class Done(NamedTuple):
    code: int
    out: str
    errors: list[str]
    """Lines on stderr but notes."""
    notes: list[str]


Call = Callable[[str], Done]


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return what runs a line of the command line, in the `folder` of the test's own file."""
    monkeypatch.chdir(folder)

    def run(line: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["samsvae", *shlex.split(line)])
        code: Any = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                command_line.main()
            except SystemExit as exit_:
                code = exit_.code
        out, error = capsys.readouterr()
        lines = error.splitlines()
        notes = [line for line in lines if line.startswith("samsvae: note: ")]
        return Done(code, out, [line for line in lines if line not in notes], notes)

    return run


def real_data(name: str) -> Path:
    """Return the path of a real data file, or skip the test."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SAMSVAE_TEST_DATA", beside))
    if not (folder / name).is_file():
        pytest.skip(f"no {name}: neither SAMSVAE_TEST_DATA nor ../shared/data has it")
    return folder / name
