"""Models and baselines, trained and scored on one split: the paper's Table 1, with its floor and
ceiling.

The report of a comparison: all models and all seeds, the first of them in detail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
import pandas as pd
from samsvae.errors import InputError, check_count
from samsvae.estimators import ESTIMATORS, Estimator
from samsvae.estimators.base import Named, by_name
from samsvae.benchmark.baselines import BASELINES
from samsvae.types import ALL_CONDITIONS
from samsvae.benchmark.tasks import DUPLICATE
from samsvae.benchmark.tasks import UNSEEN
from samsvae.runs.jobs import Score
from samsvae.settings.fields import settings_of
from samsvae.settings.questions import ScoreSettings
from samsvae.settings.experiment import Experiment, Variant
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.run import COMPARED, gathered
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import TrainPlan
from samsvae.types import Scale
from collections.abc import Mapping, Sequence
import numpy as np
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator
from samsvae.analysis.agreement import stability as agreement_of
from samsvae.runs.findings import SHOWN, scores_of
from samsvae.runs.jobs import Fit
from samsvae.runs.reporting import write
from samsvae.runs.run import Run
from samsvae.storage.directory import Directory

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
    pooled = results[results["condition"] == ALL_CONDITIONS]
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
    pooled = results[(results["condition"] == ALL_CONDITIONS) & (results["split"] == "test")]
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
