"""The paper's three experiments, from raw files to tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.reproduce import figures, tables
from samsvae.reproduce.download import read
from samsvae.reproduce.figures import (
    by_kind,
    combination_effects,
    errors_of_combinations,
    read_groups,
)
from samsvae.reproduce.prepare import prepare
from samsvae.runs.directory import Laboratory, Made, Work, write_choices
from samsvae.runs.jobs import Score, fewer_cells
from samsvae.runs.runner import Engine
from samsvae.settings.experiment import LEAST, Experiment, PreparationSettings, read_experiment
from samsvae.storage.files import write_text
from samsvae.storage.tables import write_csv

PAPER = Path(__file__).with_name("paper")
EXPERIMENTS = ("replogle", "norman-ood", "norman-data-efficiency")
WHAT = {
    "norman-ood": "share of combinations trained on",
    "norman-data-efficiency": "share of combinations' cells trained on",
}
_HELD_OUT = 0.75
"""Fraction up to which tested combinations were never seen: that of Figure 7."""


def experiment_of(name: str, scale: float, options: Mapping[str, Any]) -> Experiment:
    """Return one of the paper's experiments, or that of a TOML file, at a scale."""
    path = Path(name)
    if path.suffix == ".toml":
        return read_experiment(path, options=options).scaled(scale)
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return read_experiment(PAPER / f"{name}.toml", options=options).scaled(scale)


def paper_screen(
    name: str,
    data: Path,
    laboratory: Laboratory,
    *,
    scale: float,
    given: PreparationSettings,
    say: Callable[[str], None],
) -> Screen:
    """Return the screen of an experiment: read, prepared, reported, and brought down to a scale."""
    layout = name.partition("-")[0]
    prepared = prepare(layout, read(layout, data), given)
    write_csv(laboratory / "preparation.csv", prepared.report)
    say(prepared.report.to_string(index=False))
    if scale == 1:
        return prepared.screen
    return fewer_cells(prepared.screen, scale, least=LEAST["cells"])


def reproduce(
    name: str,
    data: Path,
    laboratory: Laboratory,
    experiment: Experiment,
    *,
    scale: float = 1.0,
    annotation: Path | None = None,
    published: Path | None = None,
    preparation: PreparationSettings,
    resume: bool = False,
    engine: Engine = "local",
    n_jobs: int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Work:
    """Run an experiment whole; tables and figures are of all jobs that are done in the end.

    Parameters
    ----------
    name
        "replogle", "norman-ood" or "norman-data-efficiency"
    data
        The raw file.
    laboratory
        Where.
    experiment
        What.
    scale
        Share of each condition's cells (at least 20, of control ten times as many).
    annotation
        Pathways, or kinds of interaction, see `read_groups`; by default the file beside the data
        whose name ends in .annotation.json, if there is one.
    published
        The paper's numbers, to stand beside ours: see `samsvae.reproduce.tables.read_published`.
    preparation
        How the paper's screen is made of the file.
    resume, engine, n_jobs, progress, say
        As in `run_jobs`.
    """
    beside = data.with_suffix(".annotation.json")
    if annotation is None and beside.exists():
        annotation = beside
    groups = {} if annotation is None else read_groups(annotation)
    known = None if published is None else tables.read_published(published)
    work = Work(laboratory, experiment)

    def screen() -> Screen:
        return paper_screen(name, data, laboratory, scale=scale, given=preparation, say=say)

    with laboratory.opened(experiment, screen, resume=resume):
        made = work.made(engine=engine, n_jobs=n_jobs, progress=progress, say=say)
        write_choices(laboratory, made.choices)
        if not made.fits:
            work.raise_failures()
        _told(laboratory, experiment, made, groups, known, name=name, say=say)
    return work


def _told(
    laboratory: Laboratory,
    experiment: Experiment,
    made: Made,
    groups: dict[str, list[str]],
    published: pd.DataFrame | None,
    *,
    name: str,
    say: Callable[[str], None],
) -> None:
    """Write tables and figures."""
    ours = [variant.label for variant in experiment.variants if variant.ours]
    pooled = tables.pooled_scores(made)
    write_csv(laboratory / "pooled.csv", pooled)
    best = tables.best_fits(made)
    scores = {score.name: score for score in made.scores if score.fit is not None}
    backend = mpl.get_backend()
    mpl.use("agg")  # figures are files here, whatever screen there is
    try:
        if not experiment.fractions:
            accuracies = figures.pathway_accuracies(best, groups) if groups else {}
            table = tables.first_table(pooled, ours, accuracies, published)
            drawn = {}
            fit = best.get(figures.MAIN)
            if fit is not None and fit.name in scores:
                drawn = figures.single_figures(
                    laboratory / "tables", fit, scores[fit.name], groups, experiment.scale
                )
        else:
            table = tables.fraction_table(pooled, ours)
            held = _held_out(made)
            drawn = figures.combination_figures(
                laboratory / "tables",
                pooled,
                held,
                scale=experiment.scale,
                what=WHAT.get(experiment.split, "fraction"),
                kinds=groups,
            )
            if held is not None and groups:
                write_csv(laboratory / "tables/interactions.csv", interactions(made, groups))
        paths = figures.save(laboratory / "figures", drawn)
    finally:
        mpl.use(backend)
    stem = "table1" if not experiment.fractions else name
    write_csv(laboratory / f"tables/{stem}.csv", table)
    write_text(laboratory / f"tables/{stem}.txt", tables.as_text(table))
    write_text(laboratory / f"tables/{stem}.tex", tables.as_latex(table))
    say("\n" + tables.as_text(table))
    say(
        f"tables are in {laboratory.place / 'tables'}, {len(paths)} figures in "
        f"{laboratory.place / 'figures'}"
    )


def _held_out(made: Made) -> Score | None:
    """Return the scores of the main model of the first split in which tested pairs are unseen."""
    found = [
        score
        for score in made.scores
        if score.fit is not None
        and score.label == figures.MAIN
        and (score.cell.fraction or 0) <= _HELD_OUT
    ]
    return max(found, key=lambda s: (s.cell.fraction or 0, -s.cell.seed), default=None)


def interactions(made: Made, groups: Mapping[str, list[str]]) -> pd.DataFrame:
    """Return which pairs models predict better than their sum: by label, fraction and kind."""
    rows = []
    for score in made.scores:
        if score.fit is None:
            continue
        screen = score.cell.screen(score.place)
        effects = combination_effects(figures.effects_of(score), screen, score.scale)
        table = by_kind(errors_of_combinations(effects), groups)
        table.insert(0, "label", score.label)
        table.insert(1, "fraction", score.cell.fraction)
        rows.append(table.assign(seed=score.cell.seed))
    return pd.concat(rows, ignore_index=True)


def check_data(data: Path) -> None:
    """Raise if the file is not there."""
    if not data.is_file():
        raise InputError(
            f"no file {str(data)!r}: samsvae datasets fetch downloads the published ones, samsvae "
            "datasets stand-in writes simulated ones"
        )
