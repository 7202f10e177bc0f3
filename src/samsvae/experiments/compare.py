"""Models and baselines, trained and scored on one split: the paper's Table 1, with its floor and
ceiling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from samsvae.errors import InputError, check_count
from samsvae.estimators import ESTIMATORS, Estimator
from samsvae.estimators.base import Named, by_name
from samsvae.evaluation.baselines import BASELINES
from samsvae.evaluation.evaluate import POOLED
from samsvae.evaluation.halves import DUPLICATE
from samsvae.evaluation.subject import UNSEEN
from samsvae.experiments.job import Score
from samsvae.settings.by_name import settings_of
from samsvae.settings.evaluation import ScoreSettings
from samsvae.settings.experiment import Experiment, Variant
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.run import COMPARED, gathered
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import TrainPlan
from samsvae.types import Scale


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
    """Return the experiment that compares models. A setting is given to those that have it.

    Parameters
    ----------
    models, baselines
        Names joined by commas; baselines also "all" or "none".
    seeds
        How many of each model: the setting `seed`, and those that follow it.
    scale, scoring
        As in `evaluate`.
    options, assignments, config
        Settings, as `samsvae train` takes them.

    Raises
    ------
    InputError
        If a name is unknown or given twice, or a setting is of none of the models.
    """
    check_count("seeds", seeds)
    given = {**COMPARED.assigned(assignments), **options}
    kinds = _chosen("model", models, ESTIMATORS)
    taken = {model.name: _settings_of(model, given) for model in kinds}
    foreign = [name for name in given if not any(name in some for some in taken.values())]
    if foreign:
        raise InputError(
            f"none of the models compared has the setting {foreign[0]!r}: leave it out"
        )
    variants = []
    for model, some in taken.items():
        settings = gathered({**some, "model": model}, config=config)
        TrainPlan(**settings_of(TrainPlan, settings))  # told before the data are read
        variants.append(Variant(label=model, settings=settings))
    if baselines in ("all", "none"):
        simple = BASELINES if baselines == "all" else []
    else:
        simple = _chosen("baseline", baselines, BASELINES)
    return Experiment(
        variants=tuple(variants),
        seeds=seeds,
        baselines=tuple(kind.name for kind in simple),
        scoring=scoring,
        scale=scale,
    )


def results_of(scores: Sequence[Score], baselines: Sequence[str]) -> pd.DataFrame:
    """Return every metric of test cells: one row per predictor, seed, split, condition, metric.

    Parameters
    ----------
    scores
        Jobs that are done.
    baselines
        Those that are told, beside models and duplicate.
    """
    tables = []
    for score in scores:
        table, fit = score.scores, score.fit
        own = table["predictor"].isin([DUPLICATE, *baselines] if fit is None else [fit.label])
        seed = pd.NA if fit is None else fit.cell.seed
        tables.append(table[own & table["split"].isin(["test", UNSEEN])].assign(seed=seed))
    results = pd.concat(tables, ignore_index=True)
    seed = results.pop("seed")
    results.insert(1, "seed", seed.astype("Int64"))
    return results


def table_of(results: pd.DataFrame) -> pd.DataFrame:
    """Return, by split, predictor and metric, the pooled score: mean, sd over seeds, and how many.

    Parameters
    ----------
    results
        As `results_of` returns them.
    """
    pooled = results[results["condition"] == POOLED]
    grouped = pooled.groupby(["split", "predictor", "metric"], sort=False)
    columns = {
        "mean": grouped["value"].mean(),
        "sd": grouped["value"].std(),
        "dynamic_range": grouped["dynamic_range"].mean(),
        "n_seeds": grouped["value"].count(),
    }
    return pd.DataFrame(columns).reset_index()


def _settings_of(model: type[Estimator], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a model's run has."""
    sources = (ScreenSettings, MODEL_SETTINGS[model.name], TrainPlan)
    return {k: v for source in sources for k, v in settings_of(source, given).items()}


def _chosen(what: str, text: str, known: Sequence[type[Named]]) -> list[type[Named]]:
    """Return classes by their names, joined by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--{what}s {text!r}: expected names joined by commas")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--{what}s names {twice[0]!r} twice")
    return [by_name(what, name, known) for name in names]
