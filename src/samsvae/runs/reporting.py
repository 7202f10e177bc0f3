"""Reports of runs: the tables of a model and its screen, computed once, and the page of them."""

from __future__ import annotations

import hashlib
import os
import platform
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from samsvae._version import __version__
from samsvae.analysis.discoveries import discoveries
from samsvae.analysis.sgrnas import sgrnas
from samsvae.analysis.similarity import most_similar
from samsvae.analysis.targets import on_target
from samsvae.benchmark.baselines import BASELINES
from samsvae.benchmark.evaluate import DIFFERENCES
from samsvae.benchmark.metrics.registry import HEADLINES, METRICS
from samsvae.benchmark.tasks import REPLICATE
from samsvae.data.conditions import Conditions
from samsvae.data.fold_changes import differential_expression
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import saving
from samsvae.estimators.base import Estimator
from samsvae.estimators.cautions import Cautions
from samsvae.export.tables import with_texts
from samsvae.report.page import page
from samsvae.report.tables import ReportTables
from samsvae.runs.methods import methods_of
from samsvae.runs.run import SCREEN, Run, digest_of
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import DiscoverySettings, ReportSettings
from samsvae.storage.directory import Directory
from samsvae.storage.files import read_json, write_json, write_text
from samsvae.storage.tables import read_csv, write_csv
from samsvae.types import ALL_CONDITIONS

REPORT, TABLES = "report.html", "report"
MAX_LISTED = 500
"""Largest number of conditions that can be named in addition to those of the data."""
REPORTED_METRICS = (*HEADLINES, "coverage_50", "interaction_pearson")
"""Metrics in a report, in this order."""
_MADE_OF = f"{TABLES}/made_of.json"
_DISCOVERIES = f"{TABLES}/discoveries.csv"
_DIGITS = 6


@checked
@takes(ReportSettings)
def write_report(
    run: str | os.PathLike[str],
    data: Screen | str | os.PathLike[str] | None = None,
    conditions: Conditions = (),
    *,
    scores: pd.DataFrame | None = None,
    stability: pd.DataFrame | None = None,
    **settings: Any,
) -> Path:
    """Write the report of a run, and return its path: report.html, next to complete tables.

    One HTML file that a browser opens from disk: the data, training, evaluation (if the run has
    been evaluated), what limits the results, mechanisms, discoveries, each condition, combinations.
    The complete tables are in the run's folder `report`.

    Parameters
    ----------
    run
        Run directory of `samsvae train`, or the folder of a saved model.
    data
        The screen that it was trained on, or its path (read with the settings of the run). By
        default the screen.h5ad of the run; without one the report shows the model alone.
    conditions
        At most 500 in addition to those of the data, such as combinations that were not measured.
    scores
        As `samsvae.evaluate` returns them; by default those that `samsvae evaluate` saved.
    stability
        As `samsvae.stability` returns it.
    **settings
        n_particles (2500), seed (0), progress, device ("auto"); see
        `samsvae.settings.questions.ReportSettings`.
    """
    chosen = asdict(ReportSettings(**settings))
    directory = Run(Path(run))
    with directory.of_one_model():
        model = directory.model(chosen.pop("device"))
        screen = data if isinstance(data, Screen) else screen_of(directory, data)
        return report_run(
            directory, model, screen, conditions, scores=scores, stability=stability, **chosen
        )


def screen_of(
    run: Run, data: str | os.PathLike[str] | None, keys: Mapping[str, Any] | None = None
) -> Screen | None:
    """Return the screen at a path, or else the run's own, if it has one."""
    own = run / SCREEN
    path = data if data is not None else (own if own.is_file() else None)
    return None if path is None else run.screen(Path(path), keys or {})


def report_run(
    run: Run,
    model: Estimator,
    screen: Screen | None,
    conditions: Conditions = (),
    *,
    scores: pd.DataFrame | None = None,
    stability: pd.DataFrame | None = None,
    **settings: Any,
) -> Path:
    """Write the report of a run from its saved model and the screen that it was trained on, if any.

    `settings` are n_particles, seed and progress; see `write_report`.
    """
    if scores is None:
        scores = run.scores()
    is_run = (run / "config.toml").is_file()
    how = "samsvae evaluate RUN DATA scores the run on its test cells"
    if not is_run:  # a model that was saved, not trained as a run
        how = "samsvae.evaluate scores it on its test cells, for write_report(..., scores=)"
    why = f"Not evaluated yet: {how}, with baselines and a technical replicate."
    return write_page(
        run,
        run.folder,
        model,
        screen,
        conditions,
        settings=settings,
        run_settings=run.config() if is_run else model.hyperparameters,
        scores=None if scores is None else reported_scores(scores, [model.name]),
        stability=stability,
        missing={"evaluation": why},
        methods=methods_of(model, run.config() if is_run else {}),
    )


def write_page(
    place: Directory,
    saved: Path,
    model: Estimator,
    screen: Screen | None,
    conditions: Conditions = (),
    *,
    settings: Mapping[str, Any],
    missing: Mapping[str, str] | None = None,
    **tables: Any,
) -> Path:
    """Write the page and the tables of the model saved in a folder into a directory.

    `missing` says why sections are empty, `tables` are other fields of `ReportTables`; for the rest
    see `report_run`. The page is written last, after the files that it links to.
    """
    aligned = None if screen is None else model.matched(screen)
    names = reported_conditions(model, aligned, conditions)
    effects, why = _stored_effects(place, saved, model, aligned, names, settings)
    missing = {**(missing or {}), **({} if why is None else {"rates": why})}
    tables = {"name": place.place.name, **tables}
    report = report_tables(model, aligned, effects, missing=missing, **tables)
    cells, mechanisms = report.cells, report.mechanisms
    if cells is not None:
        cells = cells.rename_axis("condition").reset_index()
    if mechanisms is not None:
        mechanisms = with_texts(mechanisms).reset_index()
    complete = {
        "conditions": cells,
        "sgrnas": report.sgrnas,
        "sgrna_assignment": _with_names(report.assignment.get("per_sgrna")),
        "on_target": report.on_target,
        "mechanisms": mechanisms,
        "inclusion": report.inclusion,
        "contexts": report.contexts,
        "interactions": report.interactions,
        "models": report.fits,
        "stability": report.stability,
    }
    paths = {name: f"{TABLES}/{name}.csv" for name, one in complete.items() if one is not None}
    for name, path in paths.items():
        write_csv(place / path, complete[name])
    write_text(place / REPORT, page(replace(report, paths=(_DISCOVERIES, *paths.values()))))
    return place.place / REPORT


def _with_names(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return a table by sgRNA with their names in a column."""
    return None if table is None else table.rename_axis("sgrna").reset_index()


def _stored_effects(
    place: Directory,
    saved: Path,
    model: Estimator,
    screen: Screen | None,
    names: Sequence[str],
    settings: Mapping[str, Any],
) -> tuple[pd.DataFrame, str | None]:
    """Return the effects of conditions as in `reported_effects`, and save them.

    Those of an earlier report are read, if they are of the same model, cells and settings.
    """
    made_of = {
        "samsvae": __version__,
        "model": read_json(saved / saving.NAMES)["digest"],
        "cells": None if screen is None else digest_of(screen),
        "conditions": list(names),
        "n_particles": settings.get("n_particles", DiscoverySettings.n_particles),
        "seed": settings.get("seed", DiscoverySettings.seed),
    }
    with suppress(
        OSError, InputError
    ):  # if a file is absent or damaged, effects are estimated again
        before = read_json(place / _MADE_OF)
        why = before.pop("no_rates", None)
        if before == {**made_of, "file": _digest_of_file(place / _DISCOVERIES)}:
            return read_csv(place / _DISCOVERIES), why
    effects, why = reported_effects(model, screen, names, **settings)
    numbers = effects.select_dtypes(float)  # six significant digits: a third of the file
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.floor(np.log10(np.abs(numbers)))
    scale = 10.0 ** (_DIGITS - 1 - size.replace([np.inf, -np.inf], 0).fillna(0)).clip(-300, 300)
    effects = effects.assign(**(np.round(numbers * scale) / scale))
    (place / _MADE_OF).unlink(missing_ok=True)  # until both files are there
    write_csv(place / _DISCOVERIES, effects)
    digest = _digest_of_file(place / _DISCOVERIES)
    write_json(place / _MADE_OF, {**made_of, "file": digest, "no_rates": why})
    return effects, why


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def reported_conditions(
    model: Estimator, screen: Screen | None, listed: Conditions = ()
) -> list[str]:
    """Return the conditions of a report, as they are stored.

    These are the conditions of the training cells, those of other cells for which the model has an
    answer, and at most 500 listed ones.
    """
    extra = [] if not listed else model.registry.parser.labels(listed)
    if len(extra) > MAX_LISTED:
        raise InputError(
            f"{len(extra)} conditions are listed: expected at most {MAX_LISTED}; samsvae effects "
            "writes any number of them to a file"
        )
    if extra:
        model.metadata.received(extra)  # raises if a perturbation is unknown
    others = [] if screen is None else [n for n in screen.conditions if model.answers_for(n)]
    names = [*model.metadata.conditions, *others, *map(model.metadata.stored, extra)]
    return [name for name in dict.fromkeys(names) if name != model.metadata.conditions[0]]


def reported_effects(
    model: Estimator, screen: Screen | None, conditions: Sequence[str], **settings: Any
) -> tuple[pd.DataFrame, str | None]:
    """Return effects with error rates; if there are none, the model's own effects and the reason.

    `conditions` are written as they are stored; `settings` are n_particles, seed and progress.
    """
    why = "The report has no cells, so there are no error rates: samsvae report RUN DATA."
    scale = model.default_scale
    if screen is not None:
        try:
            return discoveries(model, screen, conditions, scale=scale, **settings), None
        except InputError as error:
            why = f"There are no error rates: {error}."
    size: dict[str, Any] = {"library_size": "observed"} if scale != "mean" else {}
    size |= {"batch": "observed"} if model.registry.batches else {}
    effects = model.effects(conditions, scale=scale, **size, **settings)
    genes, n_cells = effects.var_names, np.asarray(effects.obs["n_train_cells"])
    observed = pd.DataFrame(np.nan, list(conditions), list(genes))
    if screen is not None:
        counts = np.bincount(screen.condition, minlength=len(screen.condition_names))
        n_cells = pd.Series(counts, screen.condition_names).reindex(conditions, fill_value=0)
        measured = [name for name in conditions if name in set(screen.conditions)]
        if measured:
            difference = differential_expression(screen, measured, scale=scale)
            observed = difference.reindex(conditions)[list(genes)]
    rows = pd.MultiIndex.from_product([conditions, genes], names=["condition", "gene"])
    interval = {name: effects.layers[name] for name in ("lower", "upper")}
    columns = {"estimate": effects.X, **interval, "model": effects.X, "observed": observed}
    table = pd.DataFrame({name: np.ravel(values) for name, values in columns.items()}, rows)
    return table.assign(n_cells=np.repeat(np.asarray(n_cells), len(genes))).reset_index(), why


def report_tables(
    model: Estimator,
    screen: Screen | None,
    effects: pd.DataFrame,
    *,
    run_settings: Mapping[str, Any],
    missing: Mapping[str, str] | None = None,
    **tables: Any,
) -> ReportTables:
    """Return the tables of a report, see `write_page`.

    The screen is aligned with the model; `effects` are those of `reported_effects`.
    """
    missing = dict(missing or {})
    mechanisms = inclusion = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            mechanisms, inclusion = model.mechanisms(), model.inclusion()
        except InputError as error:
            missing["mechanisms"] = f"There are none to show: {error}."
    for name, question in (
        ("contexts", model.context_differences),
        ("interactions", model.interactions),
    ):
        with suppress(InputError):  # the model has none
            tables[name] = question()
    if screen is None:
        missing["data"] = "The report has no cells: samsvae report RUN DATA shows them."
    else:
        tables |= _tables_of_cells(model, screen, missing)
    names = [str(name) for name in pd.unique(effects["condition"])]
    parts = {name: tuple(model.registry.singles(name)) for name in names}
    return ReportTables(
        model=model.name,
        card=_card(model, run_settings),
        settings=run_settings,
        history=model.history,
        unexpressed=tuple(np.array(model.registry.genes)[model.metadata.unexpressed]),
        effects=effects,
        on_target=on_target(effects) if "on_target" in effects else None,
        scale=model.default_scale,
        similar=most_similar(effects) if "lfsr" in effects and len(names) > 1 else {},
        combinations={name: singles for name, singles in parts.items() if len(singles) > 1},
        mechanisms=mechanisms,
        inclusion=inclusion,
        cautions=tuple(Cautions(model).found(screen)),
        notes=tuple(str(warning.message) for warning in caught),
        missing=missing,
        **tables,
    )


def _tables_of_cells(model: Estimator, screen: Screen, missing: dict[str, str]) -> dict[str, Any]:
    """Return the tables that a screen gives; `missing` gets the reasons for those that fail."""
    registry, control = screen.registry, screen.is_control
    sizes = screen.library_size if registry.counts else np.full(len(screen), np.nan)
    overview = {
        "n_cells": len(screen),
        "n_control_cells": int(control.sum()),
        "n_genes": len(screen.genes),
        "n_perturbations": int((screen.cells_per_perturbation > 0).sum()),
        "n_combinations": sum(len(registry.read(name)) > 1 for name in screen.conditions),
        "library_size": np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1]).tolist(),
    }
    cells = screen.summary().rename(columns={"cells": "total"})
    median = pd.Series(sizes).groupby(screen.condition).median()
    cells["library_size"] = median.to_numpy()
    cells["estimable"] = [model.metadata.is_estimable(name) for name in cells.index]
    cells["is_trained"] = cells.index.isin(model.metadata.conditions)
    tables = {"overview": overview, "cells": cells}
    if names := registry.batch_names:
        pairs = np.unique(np.stack([screen.batch, screen.condition])[:, ~control], axis=1)
        cells_of = {"control": screen.batch[control], "perturbed": screen.batch[~control]}
        counted = {**cells_of, "n_conditions": pairs[0]}
        n_cells = {key: np.bincount(rows, minlength=len(names)) for key, rows in counted.items()}
        tables["batches"] = pd.DataFrame(n_cells, list(names))
    if (assigned := screen.sgrna_assignment) is not None:
        tables["assignment"] = {
            "rules": assigned.rules(),
            "loading": assigned.loading(),
            "quantiles": assigned.quantiles(),
            "per_sgrna": assigned.per_sgrna(),
        }
    if screen.sgrna is not None:
        try:
            tables["sgrnas"] = sgrnas(screen, progress=False).sgrnas
        except InputError as error:
            missing["sgrnas"] = f"No comparison of sgRNAs: {error}."
    try:
        tables["responders"] = model.responders(screen, progress=False).rates
    except InputError as error:
        missing["responders"] = f"Not estimated: {error}."
    return tables


def reported_scores(table: pd.DataFrame, models: Iterable[str]) -> pd.DataFrame:
    """Return the scores of a report: over all conditions, of the reported metrics.

    `table` is as `samsvae.evaluate` returns it, or has one row per predictor, split and metric. The
    named models come first. A predictor without the name of a baseline is a model, too.
    """
    scores = table[table["condition"] == ALL_CONDITIONS] if "condition" in table else table
    metrics = [name for name in REPORTED_METRICS if name in set(scores["metric"])]
    scores = scores[scores["metric"].isin(metrics)].copy()
    kinds = {REPLICATE: "replicate", **{kind.name: "baseline" for kind in BASELINES}}
    scores["kind"] = scores["predictor"].map(kinds).fillna("model")
    scores["best"] = scores["metric"].map({metric.name: metric.best for metric in METRICS})
    order = {
        "split": list(pd.unique(scores["split"])),
        "predictor": list(models),  # the others after them
        "metric": metrics,
    }
    ranks = [
        scores[column].map({name: i for i, name in enumerate(names)}).fillna(len(names))
        for column, names in order.items()
    ]
    columns = ["predictor", "kind", "split", "metric", "value", "lower", "upper", "sd", "best"]
    columns += DIFFERENCES
    return scores.iloc[np.lexsort(ranks[::-1])].reindex(columns=columns).reset_index(drop=True)


def _card(model: Estimator, settings: Mapping[str, Any]) -> dict[str, Any]:
    history, n_cells = model.history, int(model.metadata.cells_per_condition.sum())
    card = {
        "model": f"{model.name} ({type(model).__name__})",
        "samsvae": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "seed": settings.get("seed", "not recorded"),
        "training cells": f"{n_cells:,}",
        "parameters": f"{sum(values.numel() for values in model.module.parameters()):,}",
    }
    if "cells_per_second" in history and len(history) and "batch_size" in settings:
        steps = history["step"].diff().fillna(history["step"].iloc[0])
        n_seen = steps * min(int(settings["batch_size"]), n_cells)
        seconds = float((n_seen / history["cells_per_second"]).sum())
        if np.isfinite(seconds):
            card["training time"] = f"about {max(1, round(seconds)):,} seconds of steps"
    return card | {
        "this report was made on": platform.platform(),
        "Python and torch": f"{platform.python_version()}, {torch.__version__}",
    }
