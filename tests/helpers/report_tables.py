"""Invented tables of a report, with something to show in every section."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from samsvae.benchmark.evaluate import DIFFERENCES
from samsvae.report.tables import ReportTables

HOSTILE = "<script>alert(1)</script>"
CONDITIONS = ["A", "B", "C", "A+B", HOSTILE]
GENES = ["STAT1", "JAK2", HOSTILE, "=1+1", *(f"g{i}" for i in range(60))]


def effects(
    conditions: list[str] = CONDITIONS, genes: list[str] = GENES, *, seed: int = 0
) -> pd.DataFrame:
    """Return a table such as `samsvae.discoveries` gives."""
    rng = np.random.default_rng(seed)
    shape = (len(conditions), len(genes))
    estimate = rng.normal(0, 1, shape)
    if "A+B" in conditions:
        estimate[conditions.index("A+B")] = estimate[:2].sum(0) + 0.1
    lfsr = np.exp(-3 * np.abs(estimate))
    table = pd.DataFrame(
        {
            "condition": np.repeat(conditions, len(genes)),
            "gene": np.tile(genes, len(conditions)),
            "estimate": estimate.ravel(),
            "sd": 0.3,
            "lower": estimate.ravel() - 0.5,
            "upper": estimate.ravel() + 0.5,
            "lfsr": lfsr.ravel(),
            "model": estimate.ravel() + 0.05,
            "observed": (estimate + rng.normal(0, 0.2, shape)).ravel(),
            "n_cells": 100,
        }
    )
    order = table["lfsr"].sort_values().index
    table.loc[order, "q_value"] = table.loc[order, "lfsr"].expanding().mean()
    return table


def difference(kind: str, value: float) -> tuple[float, float, float]:
    """Return the difference of a score from that of the model, with its interval."""
    return (np.nan,) * 3 if kind == "model" else (value, value - 0.05, value + 0.05)


def scores(**values: float) -> pd.DataFrame:
    """Return scores of a model, a baseline and a replicate on test cells.

    Values are those of the model; the baseline's are worse.
    """
    told = {"ate_pearson": 0.6, "rmse": 0.3, "coverage_90": 0.9, **values}
    best = {"ate_pearson": 1.0, "rmse": 0.0, "coverage_90": 0.9}
    best |= {"coverage_90_zero_width": 0.9, "variance_ratio": 1.0}
    rows = [
        ("sams-vae", "model", told),
        ("condition-mean", "baseline", {"ate_pearson": 0.5, "rmse": 0.4}),
        ("technical replicate", "replicate", {"ate_pearson": 0.7, "rmse": 0.35}),
    ]
    return pd.DataFrame(
        {
            "predictor": name,
            "kind": kind,
            "split": "test",
            "metric": metric,
            "value": value,
            "lower": value - 0.1,
            "upper": value + 0.1,
            "sd": np.nan,
            "best": best[metric],
            **dict(
                zip(DIFFERENCES, difference(kind, value - told.get(metric, np.nan)), strict=True)
            ),
        }
        for name, kind, some in rows
        for metric, value in some.items()
    )


def history(*, improving: bool = False) -> pd.DataFrame:
    """Return what training left."""
    step = np.arange(100, 1100, 100)
    elbo = -200 + 10 * (1 - np.exp(-step / 200))
    best = np.maximum.accumulate(elbo) == elbo
    return pd.DataFrame(
        {
            "step": step,
            "elbo": elbo,
            "likelihood": elbo + 8,
            "basal": -8.0,
            "mask": -0.1,
            "embedding": -0.2,
            "valid_elbo": elbo - 2,
            "is_best": best if improving else [*best[:-1], False],
            "is_aligned": step > 500,
            "mask_sparsity": np.where(step > 500, 0.9, np.nan),
        }
    )


def cells(conditions: list[str] = CONDITIONS, n_cells: int = 100) -> pd.DataFrame:
    """Return cells of each condition."""
    names = ["control", *conditions]
    return pd.DataFrame(
        {
            "train": n_cells - 30,
            "valid": 10,
            "test": 20,
            "total": n_cells,
            "library_size": 200.0,
            "estimable": True,
            "is_trained": True,
        },
        index=names,
    )


def inclusion(perturbations: list[str], n_latent: int = 4, *, seed: int = 0) -> pd.DataFrame:
    """Return a table such as `model.inclusion` gives; each perturbation moves one dimension."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "perturbation": name,
            "dimension": f"z{j}",
            "probability": 0.99 if i % n_latent == j else 0.02,
            "prior": 0.1,
            "log_bayes_factor": 5.0 if i % n_latent == j else -1.0,
            "log_odds": 4.0 if i % n_latent == j else -3.0,
            "shift": float(rng.normal(0, 2)) if i % n_latent == j else 0.0,
            "n_train_cells": 70,
        }
        for i, name in enumerate(perturbations)
        for j in range(n_latent)
    ]
    return pd.DataFrame(rows)


def mechanisms(perturbations: list[str], n_latent: int = 4) -> pd.DataFrame:
    """Return a table such as `model.mechanisms` gives."""
    used = min(n_latent, len(perturbations))
    own = [perturbations[j::n_latent] for j in range(used)]
    return pd.DataFrame(
        {
            "n_perturbations": [len(some) for some in own],
            "perturbations": own,
            "shifts": [[1.5] * len(some) for some in own],
            "probabilities": [[0.99] * len(some) for some in own],
            "n_candidates": 0,
            "candidates": [[] for _ in own],
            "candidate_shifts": [[] for _ in own],
            "candidate_probabilities": [[] for _ in own],
            "direction": "positive",
            "up": [["STAT1", HOSTILE]] * used,
            "down": [["JAK2"]] * used,
            "share": 1 / used,
            "log_bayes_factor": 5.0,
            "log_odds": 4.0,
        },
        pd.Index([f"z{j}" for j in range(used)], name="dimension"),
    )


def context_differences() -> pd.DataFrame:
    """Return a table such as `model.context_differences()` gives, of three contexts.

    A differs in one of them, the perturbation with the hostile name in the two where it has cells.
    """
    rows = [
        ("A", "one", "two, x", "z0", 0.99, 3.0),
        ("A", "one", "two, x", "z1", 0.97, -4.0),
        (HOSTILE, "two", "x", "z1", 0.9, 2.0),
        ("A", "two", "one, x", "z0", 0.4, 1.0),
        ("B", "one", "two, x", "z0", 0.1, 0.2),
    ]
    columns = ["perturbation", "context", "against", "mechanism", "probability", "shift"]
    return pd.DataFrame(rows, columns=columns).assign(log_bayes_factor=5.0, n_train_cells=50)


def report_tables(**changed: Any) -> ReportTables:
    """Return tables that give no caution except that there is one seed."""
    singles = ["A", "B", "C", HOSTILE]
    given: dict[str, Any] = {
        "name": HOSTILE,
        "model": "sams-vae",
        "card": {"model": "sams-vae", "made": "2026-01-01", "seed": 0},
        "settings": {"n_latent": 4, "control": HOSTILE},
        "history": history(),
        "overview": {
            "n_cells": 600,
            "n_control_cells": 100,
            "n_genes": len(GENES),
            "n_perturbations": 4,
            "n_combinations": 1,
            "library_size": [50.0, 150.0, 200.0, 300.0, 900.0],
        },
        "cells": cells(),
        "sgrnas": pd.DataFrame(
            {
                "condition": ["A", "A", HOSTILE],
                "sgrna": ["A_1", HOSTILE, "x"],
                "n_cells": [60, 40, 100],
                "strength": [1.1, 0.1, 1.0],
                "strength_se": [0.1, 0.1, 0.1],
                "flag": ["", "dead", "few cells"],
            }
        ),
        "batches": pd.DataFrame(
            {"control": [50, 50], "perturbed": [250, 250], "n_conditions": [5, 5]},
            index=["one", HOSTILE],
        ),
        "scores": scores(),
        "effects": effects(),
        "similar": {"A": [("B", 0.5), (HOSTILE, 0.2)]},
        "combinations": {"A+B": ("A", "B")},
        "mechanisms": mechanisms(singles),
        "inclusion": inclusion(singles),
        "contexts": context_differences(),
        "interactions": pd.DataFrame(
            {
                "pair": ["A+B", "A+B"],
                "mechanism": ["z0", "z1"],
                "probability": [0.98, 0.2],
                "log_bayes_factor": [7.5, -1.0],
                "shift": [-1.5, 0.1],
                "n_train_cells": [80, 80],
            }
        ),
        "paths": ("report/discoveries.csv",),
    }
    return ReportTables(**{**given, **changed})
