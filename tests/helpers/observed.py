"""Small records of what cells show, and predictions of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import norm

from samsvae.benchmark.metrics.observed import Observed
from samsvae.benchmark.metrics.registry import METRICS, Metric


def observed_of(
    effect: np.ndarray | Sequence[Sequence[float]],
    *,
    targets: Sequence[tuple[int, ...]] | None = None,
    p: np.ndarray | Sequence[Sequence[float]] | float = 1.0,
    error: np.ndarray | float = 1.0,
    t_rest: np.ndarray | float = 0.0,
    perturbation_mean: np.ndarray | None = None,
) -> Observed:
    """Return effects as a record, `condition gene`."""
    effect = np.asarray(effect, float)
    n_conditions, n_genes = effect.shape
    return Observed(
        conditions=tuple(f"c{i}" for i in range(n_conditions)),
        genes=tuple(f"g{i}" for i in range(n_genes)),
        n_cells=np.full(n_conditions, 20),
        effect=effect,
        standard_error=np.broadcast_to(error, effect.shape).copy(),
        p_control=np.broadcast_to(p, effect.shape).copy(),
        t_rest=np.broadcast_to(t_rest, effect.shape).copy(),
        perturbation_mean=effect.mean(0) if perturbation_mean is None else perturbation_mean,
        targets=tuple(targets or [()] * n_conditions),
        weight=np.ones(effect.shape),
    )


def make_observed(n_conditions: int = 7, n_genes: int = 40, seed: int = 0) -> Observed:
    """Return effects of equal standard error, but for a gene that no cell shows."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(n_conditions, n_genes)) * rng.uniform(0.7, 1.5, (n_conditions, 1))
    t_rest, error = 3 * rng.normal(size=effect.shape), np.full(effect.shape, 0.3)
    for values in (effect, t_rest, error):
        values[:, 2] = 0
    return observed_of(
        effect,
        targets=[((), (i,), (i, i + 9))[i % 3] for i in range(n_conditions)],
        p=2 * norm.sf(np.abs(effect) / 0.3),
        error=error,
        t_rest=t_rest,
        perturbation_mean=effect.mean(0) + 0.1 * rng.normal(size=n_genes),
    )


def make_predicted(observed: Observed, seed: int = 1) -> np.ndarray:
    """Return predictions that mix conditions, so that they rank in any order."""
    noise = np.random.default_rng(seed).normal(size=observed.effect.shape)
    others = sum(np.roll(observed.effect, i, axis=0) for i in range(3))
    predicted: np.ndarray = 0.5 * others + 0.7 * noise + 0.1
    return predicted


def of_conditions(observed: Observed, conditions: Sequence[int]) -> Observed:
    """Return some conditions, in their order."""
    rows = list(conditions)
    arrays = {
        name: getattr(observed, name)[rows]
        for name in ("n_cells", "effect", "standard_error", "p_control", "t_rest", "weight")
    }
    names = tuple(observed.conditions[i] for i in rows)
    return replace(
        observed, conditions=names, targets=tuple(observed.targets[i] for i in rows), **arrays
    )


def of_genes(observed: Observed, genes: Sequence[int]) -> Observed:
    """Return all genes in another order."""
    columns = list(genes)
    arrays = {
        name: getattr(observed, name)[..., columns]
        for name in (
            *("effect", "standard_error", "p_control", "t_rest"),
            *("perturbation_mean", "weight"),
        )
    }
    return replace(
        observed,
        genes=tuple(observed.genes[i] for i in columns),
        targets=tuple(tuple(columns.index(g) for g in targets) for targets in observed.targets),
        **arrays,
    )


def of_part(part: str) -> list[Metric]:
    """Return the metrics that score one part of a prediction."""
    return [metric for metric in METRICS if metric.part == part]


def per_condition(metric: Metric, predicted: Any, observed: Any) -> np.ndarray:
    """Return the score of each condition, NaN where there is none."""
    return metric.finish(metric.statistics(predicted, observed))
