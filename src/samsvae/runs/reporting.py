"""Reports of runs: made of what is there, and of what is asked of the model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
import numpy as np
import pandas as pd
from samsvae._version import __version__
from samsvae.data.conditions import Conditions
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator, saving
from samsvae.runs.findings import asked_for, effects_of, gathered, scores_of
from samsvae.runs.run import Run
from samsvae.report.findings import Findings
from samsvae.report.page import page
from samsvae.settings.arguments import checked
from samsvae.storage.directory import Directory
from samsvae.storage.files import write_text
from samsvae.storage.files import read_json, write_json
from samsvae.storage.tables import read_csv, write_csv

REPORT, TABLES = "report.html", "report"
_MADE = f"{TABLES}/made_of.json"
_DISCOVERIES = f"{TABLES}/discoveries.csv"
_DIGITS = 6


@checked
def write_report(
    run: str | os.PathLike[str],
    data: Screen | str | os.PathLike[str] | None = None,
    conditions: Conditions = (),
    *,
    scores: pd.DataFrame | None = None,
    stability: pd.DataFrame | None = None,
    n_particles: int = 2500,
    seed: int = 0,
    progress: bool = True,
    device: str = "auto",
) -> Path:
    """Write the report of a run: report.html in it, and the complete tables in `report`.

    One HTML file that opens from disk: the data, how training went, the evaluation (if the run
    has been evaluated), reasons for doubt, mechanisms, discoveries, each condition, combinations.

    Parameters
    ----------
    run
        Run directory of `samsvae train`, or the folder of a saved model.
    data
        The screen that it was trained on, or its path (read with the settings of the run). By
        default the screen.h5ad of the run; without one the report is of the model alone.
    conditions
        At most 500, beside those of the data: such as combinations that were not measured.
    scores
        As `samsvae.evaluate` returns them; by default those that `samsvae evaluate` left in the
        run.
    stability
        As `samsvae.stability` returns it.
    n_particles
        Of the model's effects.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.

    Returns
    -------
    The path of the report.

    Raises
    ------
    InputError
        If there is no finished run, a condition is not known, or a file cannot be written.
    """
    directory = Run(Path(run))
    model = directory.model(device)
    screen = data if isinstance(data, Screen) else screen_of(directory, data)
    return report_run(
        directory,
        model,
        screen,
        conditions,
        scores=scores,
        agreement=stability,
        n_particles=n_particles,
        seed=seed,
        progress=progress,
    )


def screen_of(
    run: Run, data: str | os.PathLike[str] | None, settings: Mapping[str, Any] | None = None
) -> Screen | None:
    """Return the screen of a path, or that which lies in a run, if one does."""
    own = run / "screen.h5ad"
    place = data if data is not None else (own if own.is_file() else None)
    return None if place is None else run.screen(Path(place), settings or {})


def report_run(
    run: Run,
    model: Estimator,
    screen: Screen | None,
    conditions: Conditions = (),
    *,
    scores: pd.DataFrame | None = None,
    agreement: pd.DataFrame | None = None,
    **asked: Any,
) -> Path:
    """Write the report of a run whose model and screen are at hand; see `write_report`.

    Effects that the run has from an earlier report of the same model and cells are read.

    Parameters
    ----------
    run
        With its saved model.
    model, screen
        What it was trained on; without a screen the report is of the model alone.
    conditions
        Beside those of the data.
    scores, agreement
        As `samsvae.evaluate` and `samsvae.stability` return them.
    **asked
        n_particles, seed, progress.
    """
    known = run.scores() if scores is None else scores
    told = None if known is None else scores_of(known, [model.name])
    how = "samsvae evaluate RUN DATA scores the run on its test cells"
    settings = model.hyperparameters
    if (run / "config.toml").is_file():
        settings = run.config()
    else:  # a model that was saved, not trained as a run
        how = "samsvae.evaluate scores it on its test cells, for write_report(..., scores=)"
    why = f"Not evaluated yet: {how}, beside baselines and a technical duplicate."
    return write(
        run,
        run.folder,
        model,
        screen,
        conditions,
        settings,
        told,
        agreement=agreement,
        missing={"evaluation": why},
        **asked,
    )


def write(
    place: Directory,
    saved: Path,
    model: Estimator,
    screen: Screen | None,
    conditions: Conditions,
    settings: Mapping[str, Any],
    scores: pd.DataFrame | None,
    *,
    name: str | None = None,
    fits: pd.DataFrame | None = None,
    agreement: pd.DataFrame | None = None,
    missing: Mapping[str, str] | None = None,
    **asked: Any,
) -> Path:
    """Write the page and the tables of a model, into a place; see `report_run`.

    The page comes last, when what it links to is there. The model is saved in `saved`.
    """
    matched = None if screen is None else model.matched(screen)
    names = asked_for(model, matched, conditions)
    effects, why = _effects(place, saved, model, matched, names, asked)
    findings = gathered(
        model,
        matched,
        effects,
        name=name or place.place.name,
        settings=settings,
        scores=scores,
        fits=fits,
        stability=agreement,
        missing={**(missing or {}), **({} if why is None else {"rates": why})},
    )
    tables = _tables(findings)
    for path, table in tables.items():
        write_csv(place / path, table)
    paths = (_DISCOVERIES, *tables)
    write_text(place / REPORT, page(replace(findings, tables=paths)))
    return place.place / REPORT


def _effects(
    place: Directory,
    saved: Path,
    model: Estimator,
    screen: Screen | None,
    names: Sequence[str],
    asked: Mapping[str, Any],
) -> tuple[pd.DataFrame, str | None]:
    """Return the effects of conditions, and write them; those that are there are read."""
    made_of = {
        "samsvae": __version__,
        "model": read_json(saved / saving.NAMES)["digest"],
        "cells": None if screen is None else _digest(screen),
        "conditions": list(names),
        "n_particles": asked.get("n_particles", 2500),
        "seed": asked.get("seed", 0),
    }
    with suppress(OSError, InputError):  # what is not there, or damaged, is made anew
        before = read_json(place / _MADE)
        why = before.pop("no_rates", None)
        if before == {**made_of, "file": _digest_of(place / _DISCOVERIES)}:
            return read_csv(place / _DISCOVERIES), why
    effects, why = effects_of(model, screen, names, **asked)
    effects = _rounded(effects)
    (place / _MADE).unlink(missing_ok=True)  # until both are there
    write_csv(place / _DISCOVERIES, effects)
    digest = _digest_of(place / _DISCOVERIES)
    write_json(place / _MADE, {**made_of, "file": digest, "no_rates": why})
    return effects, why


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _digest(screen: Screen) -> str:
    """Return a digest of the cells and their split."""
    split = np.asarray(screen.split, dtype=str)
    return hashlib.blake2b(f"{screen.digest} {split.tolist()}".encode(), digest_size=16).hexdigest()


def _tables(findings: Findings) -> dict[str, pd.DataFrame]:
    """Return the complete tables by the path at which they are written, but for the effects."""
    tables: dict[str, pd.DataFrame] = {}
    if findings.cells is not None:
        cells = findings.cells.rename_axis("condition").reset_index()
        tables[f"{TABLES}/conditions.csv"] = cells
    if findings.sgrnas is not None:
        tables[f"{TABLES}/sgrnas.csv"] = findings.sgrnas
    if findings.mechanisms is not None:
        lists = ("perturbations", "shifts", "probabilities", "up", "down")
        told = findings.mechanisms.reset_index()
        for name in lists:
            told[name] = ["; ".join(map(str, some)) for some in told[name]]
        tables[f"{TABLES}/mechanisms.csv"] = told
    if findings.inclusion is not None:
        tables[f"{TABLES}/inclusion.csv"] = findings.inclusion
    if findings.fits is not None:
        tables[f"{TABLES}/models.csv"] = findings.fits
    if findings.stability is not None:
        tables[f"{TABLES}/stability.csv"] = findings.stability
    return tables


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with numbers of six significant digits: a third of the file."""
    numbers = table.select_dtypes(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.floor(np.log10(np.abs(numbers)))
    scale = 10.0 ** (_DIGITS - 1 - size.replace([np.inf, -np.inf], 0).fillna(0)).clip(-300, 300)
    return table.assign(**(np.round(numbers * scale) / scale))
