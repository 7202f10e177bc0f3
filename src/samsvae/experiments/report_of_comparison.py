"""The report of a comparison: all models and all seeds, the first of them in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator
from samsvae.evaluation.evaluate import POOLED
from samsvae.evaluation.stability import stability as agreement_of
from samsvae.experiments.compare import table_of
from samsvae.experiments.findings import SHOWN, scores_of
from samsvae.experiments.job import Fit
from samsvae.experiments.reporting import write
from samsvae.experiments.run import Run
from samsvae.storage.directory import Directory

_SEED_PARTICLES = 500
"""Of the effects that are compared between seeds."""


def report_comparison(
    place: Directory,
    fits: Sequence[Fit],
    screen: Screen,
    results: pd.DataFrame,
    **asked: Any,
) -> Path:
    """Write the report of a comparison: of its first model, beside all others and all seeds.

    Parameters
    ----------
    place
        The directory of the comparison.
    fits
        Trained models, the one that is reported first; those of one label differ in their seed, and
        how far they agree is told.
    screen
        With its split.
    results
        Scores, as `results_of` returns them.
    **asked
        n_particles, seed, progress.
    """
    first = fits[0]
    run = Run(first.folder)
    labels = list(dict.fromkeys(fit.label for fit in fits))
    seeds: dict[str, dict[int, Estimator]] = {label: {} for label in labels}
    for fit in fits:
        seeds[fit.label][fit.cell.seed] = Run(fit.folder).model(fit.settings["device"])
    model = next(iter(seeds[first.label].values()))
    scores = scores_of(table_of(results).rename(columns={"mean": "value"}), labels)
    return write(
        place,
        run.folder,
        model,
        screen,
        (),
        run.config(),
        scores,
        name=f"{place.place.name}: {first.label}, seed {first.cell.seed}",
        fits=_fits_of(seeds, results),
        agreement=_agreement_of(seeds, progress=bool(asked.get("progress", True))),
        **asked,
    )


def _agreement_of(
    seeds: Mapping[str, Mapping[int, Estimator]], *, progress: bool
) -> pd.DataFrame | None:
    """Return how far the seeds of each model agree; None: each has one."""
    asked: dict[str, Any] = {"n_particles": _SEED_PARTICLES, "progress": progress}
    tables = {
        label: agreement_of({f"seed {n}": one for n, one in models.items()}, **asked)
        for label, models in seeds.items()
        if len(models) > 1
    }
    if not tables:
        return None
    return pd.concat(tables, names=["model", None]).reset_index("model").reset_index(drop=True)


def _fits_of(seeds: Mapping[str, Mapping[int, Estimator]], results: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model and seed of a comparison: how it was trained, and its scores.

    Parameters
    ----------
    seeds
        Trained models by label and seed.
    results
        As `results_of` returns them: those of test cells, of all conditions together.
    """
    pooled = results[(results["condition"] == POOLED) & (results["split"] == "test")]
    rows = []
    for label, models in seeds.items():
        for seed, model in models.items():
            own = pooled[(pooled["predictor"] == label) & (pooled["seed"] == seed)]
            scores = own.set_index("metric")["value"]
            row: dict[str, Any] = {"model": label, "seed": seed}
            history = model.history
            if "is_best" in history and history["is_best"].any():
                kept = history[history["is_best"]].iloc[-1]
                row |= {"step": int(kept["step"]), "validation_elbo": kept["valid_elbo"]}
            try:
                used = (model.mask_probabilities() > 0.5).any()
                row["dimensions_in_use"] = int(used.sum())
            except InputError:  # it displaces nothing in latent space
                row["dimensions_in_use"] = np.nan
            rows.append(row | {metric: scores[metric] for metric in SHOWN if metric in scores})
    return pd.DataFrame(rows)
