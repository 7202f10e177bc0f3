"""Compare models and baselines, trained and scored on one split, and report the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from samsvae.analysis.agreement import stability
from samsvae.benchmark.baselines import BASELINES
from samsvae.benchmark.tasks import REPLICATE, UNSEEN
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator, Named, by_name
from samsvae.estimators.models import ESTIMATORS
from samsvae.runs.jobs import ScoreJob, TrainJob
from samsvae.runs.reporting import REPORTED_METRICS, reported_scores, write_page
from samsvae.runs.run import ExperimentDirectory, Run
from samsvae.settings.experiment import COMPARED, Experiment, Variant, gathered
from samsvae.settings.fields import Settings, settings_of
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.questions import ScoreSettings
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import TrainPlan
from samsvae.types import ALL_CONDITIONS, Scale

_STABILITY_PARTICLES = 500
"""Particles of the effects that are compared between seeds."""


def comparison(
    *,
    models: str,
    baselines: str,
    seeds: int,
    scale: Scale,
    scoring: ScoreSettings,
    options: Mapping[str, Any],
    assignments: Iterable[str] = (),
    config: Path | None = None,
) -> Experiment:
    """Return the experiment that compares models. Each setting goes to the models that have it.

    `models` and `baselines` are names joined by commas, baselines also "all" or "none"; options,
    assignments and config are settings, as `samsvae train` takes them. It is an error if a name is
    unknown or given twice, or none of the models has a setting.
    """
    settings = COMPARED.given(options, assignments)
    kinds = _classes("model", models, ESTIMATORS)
    own = {}
    for kind in kinds:
        fields = Settings(ScreenSettings, MODEL_SETTINGS[kind.name], TrainPlan).fields
        own[kind.name] = {name: value for name, value in settings.items() if name in fields}
    foreign = [name for name in settings if not any(name in of_model for of_model in own.values())]
    if foreign:
        raise InputError(
            f"none of the models compared has the setting {foreign[0]!r}: leave it out"
        )
    variants = []
    for model, of_model in own.items():
        complete = gathered({**of_model, "model": model}, config=config)
        TrainPlan(**settings_of(TrainPlan, complete))  # raises before the data are read
        variants.append(Variant(label=model, settings=complete))
    lists = {"all": list(BASELINES), "none": []}
    chosen = lists[baselines] if baselines in lists else _classes("baseline", baselines, BASELINES)
    return Experiment(
        variants=tuple(variants),
        seeds=seeds,
        baselines=tuple(kind.name for kind in chosen),
        scoring=scoring,
        scale=scale,
    )


def _classes(kind: str, text: str, classes: Sequence[type[Named]]) -> list[type[Named]]:
    """Return classes by their names, joined by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--{kind}s {text!r}: expected names joined by commas")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--{kind}s names {twice[0]!r} twice")
    return [by_name(kind, name, classes) for name in names]


def results_of(scores: Sequence[ScoreJob], baselines: Sequence[str]) -> pd.DataFrame:
    """Return every metric of test cells: one row per predictor, seed, split, condition, metric.

    The table holds the models, these baselines and the technical replicate of finished jobs.
    """
    tables = []
    for job in scores:
        table, model = job.scores, job.trained
        names = [REPLICATE, *baselines] if model is None else [model.label]
        rows = table["predictor"].isin(names) & table["split"].isin(["test", UNSEEN])
        seed = pd.NA if model is None else job.replicate.seed
        tables.append(table[rows].assign(seed=seed))
    results = pd.concat(tables, ignore_index=True)
    results.insert(1, "seed", results.pop("seed").astype("Int64"))
    return results


def table_of(results: pd.DataFrame) -> pd.DataFrame:
    """Return mean and sd over seeds of the scores over all conditions, see `results_of`.

    One row per split, predictor and metric.
    """
    scores = results[results["condition"] == ALL_CONDITIONS]
    grouped = scores.groupby(["split", "predictor", "metric"], sort=False)
    columns = {
        "mean": grouped["value"].mean(),
        "sd": grouped["value"].std(),
        "dynamic_range": grouped["dynamic_range"].mean(),
        "n_seeds": grouped["value"].count(),
    }
    return pd.DataFrame(columns).reset_index()


def report_comparison(
    directory: ExperimentDirectory,
    trained: Sequence[TrainJob],
    screen: Screen,
    results: pd.DataFrame,
    **settings: Any,
) -> Path:
    """Write the report of a comparison: its first model in detail, and the scores of all.

    The agreement of models of the same label, which differ in their seed, is part of the report.
    `results` are those of `results_of`; `settings` are n_particles, seed and progress.
    """
    first = trained[0]
    models: dict[str, dict[int, Estimator]] = {}
    for job in trained:
        models.setdefault(job.label, {})[job.replicate.seed] = job.model()
    scores = reported_scores(table_of(results).rename(columns={"mean": "value"}), models)
    is_pooled = (results["condition"] == ALL_CONDITIONS) & (results["split"] == "test")
    pooled = results[is_pooled].set_index(["predictor", "seed", "metric"])["value"]
    rows = []
    for label, of_label in models.items():
        for seed, model in of_label.items():
            row: dict[str, Any] = {"model": label, "seed": seed}
            history = model.history
            if "is_best" in history and history["is_best"].any():
                kept = history[history["is_best"]].iloc[-1]
                row |= {"step": int(kept["step"]), "validation_elbo": kept["valid_elbo"]}
            try:
                row["dimensions_in_use"] = int((model.mask_probabilities() > 0.5).any().sum())
            except InputError:  # a model without shifts in latent space
                row["dimensions_in_use"] = np.nan
            values = {name: pooled.get((label, seed, name)) for name in REPORTED_METRICS}
            rows.append(row | {name: value for name, value in values.items() if value is not None})
    tables = {"fits": pd.DataFrame(rows)}
    agreement = {
        label: stability(
            {f"seed {seed}": model for seed, model in seeds.items()},
            n_particles=_STABILITY_PARTICLES,
            progress=bool(settings.get("progress", True)),
        )
        for label, seeds in models.items()
        if len(seeds) > 1
    }
    if agreement:
        table = pd.concat(agreement, names=["model", None])
        tables["stability"] = table.reset_index("model").reset_index(drop=True)
    return write_page(
        directory,
        first.folder,
        models[first.label][first.replicate.seed],
        screen,
        settings=settings,
        run_settings=Run(first.folder).config(),
        name=f"{directory.place.name}: {first.label}, seed {first.replicate.seed}",
        scores=scores,
        **tables,
    )
