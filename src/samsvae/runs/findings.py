"""What a report shows of a model and its screen, gathered into tables."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
import numpy as np
import pandas as pd
import torch
from samsvae._version import __version__
from samsvae.data.conditions import Conditions
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator
from samsvae.benchmark.baselines import BASELINES
from samsvae.analysis.differential_expression import differential_expression
from samsvae.analysis.discoveries import discoveries
from samsvae.analysis.discoveries import most_similar
from samsvae.types import ALL_CONDITIONS
from samsvae.benchmark.tasks import DUPLICATE
from samsvae.analysis.sgrnas import sgrnas
from samsvae.benchmark.metrics.registry import HEADLINES, METRICS
from samsvae.report.findings import Findings

MOST_LISTED = 500
"""Conditions that can be asked for beside those of the data."""
SHOWN = (*HEADLINES, "coverage_50", "interaction_pearson")
"""Scores of a report, in this order."""


def asked_for(model: Estimator, screen: Screen | None, listed: Conditions) -> list[str]:
    """Return the conditions of a report, as they are stored.

    Those of the training cells, those of other cells that the model has an answer for, and those
    that are listed.

    Raises
    ------
    InputError
        If more than 500 are listed, or one has a perturbation never seen in training.
    """
    extra = [] if not listed else model.registry.parser.labels(listed)
    if len(extra) > MOST_LISTED:
        raise InputError(
            f"{len(extra)} conditions are listed: expected at most {MOST_LISTED}; samsvae effects "
            "writes any number of them to a file"
        )
    if extra:
        model.metadata.received(extra)  # refuses what was never seen
    others = [] if screen is None else [n for n in screen.conditions if model.answers_for(n)]
    wanted = [*model.metadata.conditions, *others, *map(model.metadata.stored, extra)]
    return [name for name in dict.fromkeys(wanted) if name != model.metadata.conditions[0]]


def effects_of(
    model: Estimator, screen: Screen | None, conditions: Sequence[str], **asked: Any
) -> tuple[pd.DataFrame, str | None]:
    """Return effects with error rates; where there can be none, the model's, and why.

    Parameters
    ----------
    model, screen
        As in `samsvae.discoveries`; without a screen nothing is observed.
    conditions
        As they are stored.
    **asked
        n_particles, seed, progress.
    """
    why = "The cells are not at hand, and so there are no error rates: samsvae report RUN DATA."
    scale = model.module.likelihood.scales[0]
    if screen is not None:
        try:
            table = discoveries(model, screen, conditions, scale=scale, **asked)
            return table, None
        except InputError as error:
            why = f"There are no error rates: {error}."
    size: dict[str, Any] = {"library_size": "observed"} if scale != "mean" else {}
    size |= {"batch": "observed"} if model.registry.batches else {}
    effects = model.effects(conditions, scale=scale, **size, **asked)
    n_genes = effects.n_vars
    observed, n_cells = np.full(effects.shape, np.nan), np.asarray(effects.obs["n_train_cells"])
    if screen is not None:
        present = set(screen.conditions)
        measured = [name for name in conditions if name in present]
        if measured:
            found = differential_expression(screen, measured, scale=scale)
            observed = found.reindex(conditions)[list(effects.var_names)].to_numpy()
        counted = np.bincount(screen.condition, minlength=len(screen.condition_names))
        place = screen.position_of_condition
        n_cells = np.array([counted[place[n]] if n in place else 0 for n in conditions])
    table = pd.DataFrame(
        {
            "condition": np.repeat(conditions, n_genes),
            "gene": np.tile(effects.var_names, len(conditions)),
            "estimate": np.ravel(effects.X),
            "lower": np.ravel(effects.layers["lower"]),
            "upper": np.ravel(effects.layers["upper"]),
            "model": np.ravel(effects.X),
            "observed": np.ravel(observed),
            "n_cells": np.repeat(n_cells, n_genes),
        }
    )
    return table, why


def gathered(
    model: Estimator,
    screen: Screen | None,
    effects: pd.DataFrame,
    *,
    name: str,
    settings: Mapping[str, Any],
    scores: pd.DataFrame | None = None,
    fits: pd.DataFrame | None = None,
    stability: pd.DataFrame | None = None,
    missing: Mapping[str, str] | None = None,
) -> Findings:
    """Return what a report shows.

    Parameters
    ----------
    model
        Trained.
    screen
        Matched to the model; None: the cells are not at hand.
    effects
        As `effects_of` returns them.
    name
        Of the run.
    settings
        Of the run.
    scores
        Of all conditions together, see `scores_of` and `Findings`.
    fits
        Of a comparison, see `Findings`.
    stability
        As `samsvae.stability` returns it.
    missing
        Why sections are empty.
    """
    why = dict(missing or {})
    mechanisms = inclusion = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            mechanisms, inclusion = model.mechanisms(), model.inclusion()
        except InputError as error:
            why["mechanisms"] = f"There are none to show: {error}."
    notes = tuple(str(one.message) for one in caught)
    names = [str(one) for one in pd.unique(effects["condition"])]
    scale = model.module.likelihood.scales[0]
    seen: dict[str, Any] = {}
    if screen is not None:
        seen = {
            "overview": _overview(screen),
            "cells": _cells(model, screen),
            "batches": _batches(screen),
        }
        if screen.sgrna is not None:
            try:
                seen["sgrnas"] = sgrnas(screen, progress=False).sgrnas
            except InputError as error:
                why["sgrnas"] = f"There is nothing to say of sgRNAs: {error}."
        try:
            seen["responders"] = model.responders(screen, progress=False).rates
        except InputError as error:
            why["responders"] = f"Not asked: {error}."
    else:
        why["data"] = "The cells are not at hand: samsvae report RUN DATA shows them."
    unexpressed = model.metadata.unexpressed
    return Findings(
        name=name,
        model=model.name,
        card=_card(model, settings),
        settings=settings,
        history=model.history,
        unexpressed=tuple(np.array(model.registry.genes)[unexpressed]),
        scores=scores,
        fits=fits,
        stability=stability,
        effects=effects,
        scale=scale,
        alike=most_similar(effects) if "lfsr" in effects and len(names) > 1 else {},
        combinations=_combinations(model, names),
        mechanisms=mechanisms,
        inclusion=inclusion,
        notes=notes,
        missing=why,
        **seen,
    )


def scores_of(table: pd.DataFrame, models: Iterable[str]) -> pd.DataFrame:
    """Return scores as a report shows them: of all conditions together, headline metrics.

    Parameters
    ----------
    table
        As `samsvae.evaluate` returns it, or with one row per predictor, split and metric.
    models
        Those that come first, in this order. What bears no baseline's name is a model.
    """
    pooled = table[table["condition"] == ALL_CONDITIONS] if "condition" in table else table
    order = [name for name in SHOWN if name in set(pooled["metric"])]
    shown = pooled[pooled["metric"].isin(order)].copy()
    own = list(models)

    kinds = {DUPLICATE: "duplicate", **{kind.name: "baseline" for kind in BASELINES}}
    shown["kind"] = shown["predictor"].map(kinds).fillna("model")  # whatever it was called
    shown["best"] = shown["metric"].map({metric.name: metric.best for metric in METRICS})
    for column in ("lower", "upper", "sd"):
        if column not in shown:
            shown[column] = np.nan
    rank = {name: i for i, name in enumerate(own)}
    shown["rank"] = shown["predictor"].map(rank).fillna(len(own))
    shown["place"] = shown["metric"].map(order.index)
    split = shown["split"].map({name: i for i, name in enumerate(pd.unique(shown["split"]))})
    shown = shown.assign(at=split).sort_values(["at", "rank", "place"], kind="stable")
    columns = ["predictor", "kind", "split", "metric", "value", "lower", "upper", "sd", "best"]
    return shown[columns].reset_index(drop=True)


def _overview(screen: Screen) -> dict[str, Any]:
    several = [name for name in screen.conditions if len(screen.registry.read(name)) > 1]
    sizes = screen.library_size if screen.registry.counts else np.full(1, np.nan)
    return {
        "n_cells": len(screen),
        "n_control_cells": int(screen.is_control.sum()),
        "n_genes": len(screen.genes),
        "n_perturbations": int((screen.cells_per_perturbation > 0).sum()),
        "n_combinations": len(several),
        "library_size": np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1]).tolist(),
    }


def _cells(model: Estimator, screen: Screen) -> pd.DataFrame:
    table = screen.summary()
    if "total" not in table:
        table = table.rename(columns={"cells": "total"})
    own = screen.library_size if screen.registry.counts else np.full(len(screen), np.nan)
    sizes = pd.Series(own).groupby(screen.condition).median()
    sizes.index = [screen.condition_names[i] for i in sizes.index]
    table["library_size"] = sizes.reindex(table.index)
    table["estimable"] = [model.metadata.is_estimable(name) for name in table.index]
    trained = set(model.metadata.conditions)
    table["is_trained"] = [name in trained for name in table.index]
    return table


def _batches(screen: Screen) -> pd.DataFrame | None:
    names = screen.registry.batch_names
    if not names:
        return None
    control, n = screen.is_control, len(names)
    pairs = np.unique(np.stack([screen.batch, screen.condition])[:, ~control], axis=1)
    return pd.DataFrame(
        {
            "control": np.bincount(screen.batch[control], minlength=n),
            "perturbed": np.bincount(screen.batch[~control], minlength=n),
            "n_conditions": np.bincount(pairs[0], minlength=n),
        },
        index=list(names),
    )


def _combinations(model: Estimator, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the combinations among conditions, with what each is made of."""
    parts = {name: tuple(model.registry.singles(name)) for name in names}
    return {name: some for name, some in parts.items() if len(some) > 1}


def _card(model: Estimator, settings: Mapping[str, Any]) -> dict[str, Any]:
    card = {
        "model": f"{model.name} ({type(model).__name__})",
        "samsvae": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "seed": settings.get("seed", "not known"),
        "training cells": f"{int(model.metadata.cells_per_condition.sum()):,}",
        "parameters": f"{sum(one.numel() for one in model.module.parameters()):,}",
    }
    seconds = _training_time(model.history, settings, int(model.metadata.cells_per_condition.sum()))
    if np.isfinite(seconds):
        card["training time"] = f"some {max(1, round(seconds)):,} seconds of steps"
    return card | {
        "this report was made on": platform.platform(),
        "Python and torch": f"{platform.python_version()}, {torch.__version__}",
    }


def _training_time(history: pd.DataFrame, settings: Mapping[str, Any], n_cells: int) -> float:
    """Return the seconds that steps took, of the speed that the history tells."""
    if history.empty or "cells_per_second" not in history or "batch_size" not in settings:
        return float("nan")
    batch = min(int(settings["batch_size"]), n_cells)
    steps = history["step"].diff().fillna(history["step"].iloc[0])
    return float((steps * batch / history["cells_per_second"]).sum())
