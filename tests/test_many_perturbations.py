"""Thousands of perturbations: nothing that is held grows with their square."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import samsvae
from helpers.report_tables import report_tables
from samsvae import Screen
from samsvae.analysis.similarity import most_similar
from samsvae.benchmark.metrics.registry import Scored, scored
from samsvae.benchmark.predictions import PredictedTables
from samsvae.benchmark.tasks import evaluation_tasks
from samsvae.export.annotation import _displacements
from samsvae.report.page import page
from samsvae.report.tables import ReportTables

N, N_GENES = 3000, 5
SQUARE = N * N
"""Bytes of an array of perturbations x perturbations of the smallest type there is."""


@pytest.fixture(scope="module")
def screen() -> Screen:
    """Three cells of each perturbation, one of them to be tested; two conditions are pairs."""
    rng = np.random.default_rng(0)
    names = [f"P{i:04d}" for i in range(N)]
    label = np.repeat(["control", *names, "P0000+P0001", "P0002+P0003"], 3)
    label = np.concatenate([label, np.full(297, "control")])
    counts = sp.csr_matrix(rng.poisson(3.0, (len(label), N_GENES)).astype(np.float32) + 1)
    obs = pd.DataFrame({"perturbation": label}, index=[f"c{i}" for i in range(len(label))])
    obs["split"] = np.array(["train", "train", "test"])[np.arange(len(label)) % 3]
    return Screen.from_anndata(AnnData(counts, obs=obs), split_key="split")


@pytest.fixture(scope="module")
def model(screen: Screen) -> samsvae.SAMSVAE:
    """Three mechanisms, and each perturbation in one of them."""
    made = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=4)
    made.train(max_steps=2, batch_size=64, alignment="none", progress=False)
    logits = made.module.mechanism.mask.logits.data
    logits.fill_(-8)
    logits[torch.arange(N), torch.arange(N) % 3] = 4
    return made


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Effects as `samsvae.discoveries` gives them."""
    rng = np.random.default_rng(0)
    n_genes = 12
    rows = pd.DataFrame(
        {
            "condition": pd.Categorical(np.repeat([f"P{i:04d}" for i in range(N)], n_genes)),
            "gene": pd.Categorical(np.tile([f"g{i}" for i in range(n_genes)], N)),
            "n_cells": 3,
            **{name: rng.normal(size=N * n_genes) for name in ("estimate", "model", "observed")},
        }
    )
    rows["sd"], rows["lfsr"], rows["q_value"] = 0.5, 0.2, 0.1
    return rows.assign(lower=rows["estimate"] - 1, upper=rows["estimate"] + 1)


def told(model: samsvae.SAMSVAE, table: pd.DataFrame) -> ReportTables:
    tables = {"effects": table, "mechanisms": model.mechanisms(), "inclusion": model.inclusion()}
    return replace(report_tables(), combinations={}, similar={}, **tables)


def scored_on_train(screen: Screen) -> dict[str, Scored]:
    """Score a baseline, and cells, as `samsvae.evaluate` does; it would draw conditions anew."""
    (task,) = evaluation_tasks(screen, "log", ["train"], n_cells=3, seed=0)
    predictor = samsvae.baselines.ConditionMean(screen)
    answers = PredictedTables.of(predictor, task.all_conditions, n_draws=0, scale="log")
    assert scored(task.replicate(task.cells), task.observation())
    return scored(answers.on(task, predictor), task.observation())


ASKED: dict[str, Callable[[Screen, samsvae.SAMSVAE, pd.DataFrame], Any]] = {
    "scores": lambda screen, model, table: scored_on_train(screen),
    "differential expression": lambda screen, model, table: samsvae.differential_expression(screen),
    "displacements": lambda screen, model, table: _displacements(model, model.metadata.conditions),
    "loader": lambda screen, model, table: model.loader(screen.test),
    "inclusion": lambda screen, model, table: model.inclusion(),
    "mechanisms": lambda screen, model, table: model.mechanisms(),
    "programs": lambda screen, model, table: model.programs(n_particles=5, progress=False),
    "similar": lambda screen, model, table: samsvae.similar(table, "P0000"),
    "most similar": lambda screen, model, table: most_similar(table),
    "page": lambda screen, model, table: page(told(model, table)),
    "summary": lambda screen, model, table: screen.summary(),
}


@pytest.mark.parametrize("name", ASKED)
def test_memory_does_not_grow_with_the_square(
    name: str, screen: Screen, model: samsvae.SAMSVAE, table: pd.DataFrame
) -> None:
    tracemalloc.start()
    try:
        ASKED[name](screen, model, table)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * SQUARE  # of numbers in single precision
