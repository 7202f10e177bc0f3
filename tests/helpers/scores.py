"""Screens, settings and plain loops that evaluate is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import pearsonr

from helpers.observed import of_part
from helpers.screens import make_adata, read
from samsvae import Screen, evaluate
from samsvae.benchmark.evaluate import DIFFERENCES
from samsvae.benchmark.tasks import EvaluationTask, evaluation_tasks

QUICK: dict[str, Any] = {
    "scale": "log",
    "n_particles": 20,
    "effect_particles": 50,
    "n_draws": 10,
    "n_halvings": 3,
    "n_cells": 20,
    "progress": False,
}
BARE: dict[str, Any] = {"n_halvings": 0, "n_cells": 0}
"""Neither a technical replicate nor populations of cells."""
TRAINING: dict[str, Any] = {
    "max_steps": 20,
    "batch_size": 64,
    "n_particles": 2,
    "learning_rate": 0.01,
    "validate_every": 20,
    "progress": False,
}
TINY: dict[str, Any] = {"n_latent": 3, "n_hidden": 6}
KEYS = ["predictor", "split", "condition", "metric"]
NUMBERS = ["value", "lower", "upper", "mc_se", "dynamic_range", "n_cells", *DIFFERENCES]
SINGLES, SCORED = ["A", "B", "C"], ["A", "A+B", "B", "C"]
EFFECTS = [metric.name for metric in of_part("effects")]
INTERACTIONS = [metric.name for metric in of_part("interactions")]
POPULATIONS = ["e_distance", "mmd"]
INTERVALS = [metric.name for metric in of_part("intervals")]
CORRELATIONS = {
    "ate_pearson",
    "ate_pearson_top20",
    "pearson_from_control",
    "pearson_from_perturbation_mean",
}
"""Of effects at library size 1e4."""


def scored(predictors: Any, screen: Screen, **settings: Any) -> pd.DataFrame:
    return evaluate(predictors, screen, **QUICK | settings)


def heldout(*names: str) -> Screen:
    """Return a screen without training cells of some conditions."""
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"].isin(names), "split"] = "test"
    return read(adata)


def clear_adata(*, rate: float = 30, change: float = 4) -> AnnData:
    """Return cells of which half tell what the other half does: many counts, large effects."""
    adata = make_adata(n_cells=300, n_genes=30)
    rates = np.full(adata.shape, float(rate))
    for i, name in enumerate(SINGLES):
        cells = adata.obs["perturbation"].str.contains(name).to_numpy()
        rates[cells, 8 * i : 8 * i + 6] *= change
    adata.X = np.random.default_rng(0).poisson(rates).astype(np.float32)
    return adata


def found(table: pd.DataFrame, predictor: str, metric: str, split: str = "test") -> pd.DataFrame:
    """Return the rows of one metric of one predictor, by condition."""
    rows = table[(table["predictor"] == predictor) & (table["metric"] == metric)]
    return rows[rows["split"] == split].set_index("condition", verify_integrity=True)


def values(table: pd.DataFrame, predictor: str, metric: str, split: str = "test") -> dict[str, Any]:
    return dict(found(table, predictor, metric, split)["value"])


def same(ours: pd.DataFrame, theirs: pd.DataFrame, rtol: float = 0, atol: float = 0) -> None:
    """Check that tables hold the same numbers, in whatever order."""
    ours, theirs = (table.set_index(KEYS)[NUMBERS].sort_index() for table in (ours, theirs))
    pd.testing.assert_frame_equal(ours, theirs, rtol=rtol, atol=atol)


def dense_logs(counts: Any) -> np.ndarray:
    values = counts.toarray().astype(float)
    logs: np.ndarray = np.log2(1 + 1e4 * values / values.sum(1, keepdims=True))
    return logs


class Cells:
    """What some cells of a screen show, from a dense matrix."""

    def __init__(self, screen: Screen, which: Any, dense: np.ndarray | None = None) -> None:
        self.values = dense_logs(screen.counts) if dense is None else dense
        self.label = np.array(screen.condition_names)[screen.condition]
        self.which = np.asarray(which)

    def mean(self, condition: str) -> np.ndarray:
        cells = self.values[self.which & (self.label == condition)]
        mean: np.ndarray = cells.mean(0)
        return mean

    def effect(self, condition: str) -> np.ndarray:
        return self.mean(condition) - self.mean("control")


def in_split(screen: Screen, name: str) -> np.ndarray:
    return np.asarray(screen.split) == name


def by_hand(metric: str, predicted: Any, observed: Any) -> dict[str, float]:
    """Return the score of each condition and of all, from effects by condition."""
    score = {
        "mae": lambda a, d: np.abs(a - d).mean(),
        "rmse": lambda a, d: np.sqrt(((a - d) ** 2).mean()),
        "ate_pearson": lambda a, d: pearsonr(np.ravel(a), np.ravel(d))[0] if np.ptp(a) else 0.0,
        "ate_r2": lambda a, d: 1 - ((a - d) ** 2).sum() / ((d - d.mean()) ** 2).sum(),
    }[metric]
    each = {name: float(score(predicted[name], observed[name])) for name in observed}
    rows = [np.array([effects[name] for name in observed]) for effects in (predicted, observed)]
    return {**each, "(all)": float(score(*rows))}


BY_HAND = ["mae", "rmse", "ate_pearson", "ate_r2"]


def task_of(screen: Screen, label: str = "test", *, n_cells: int = 0) -> EvaluationTask:
    (task,) = evaluation_tasks(screen, "log", [label], n_cells=n_cells, seed=0)
    return task


Halves = list[tuple[np.ndarray, np.ndarray]]


def effects_of_half(screen: Screen, half: np.ndarray) -> dict[str, np.ndarray]:
    cells = Cells(screen, half & in_split(screen, "test"))
    return {name: cells.effect(name) for name in SCORED}
