"""An experiment in a directory: jobs made of it, run, and gathered into tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
import numpy as np
import pandas as pd
from samsvae.data.screen import Screen
from samsvae.errors import FailedJobsError, InputError
from samsvae.estimators import estimator
from samsvae.estimators.base import by_name
from samsvae.benchmark.baselines import BASELINES
from samsvae.runs.jobs import Cell, Fit, Job, Score
from samsvae.runs.jobs import SCREEN, SETTINGS, with_split, write_material
from samsvae.runs.runner import Engine, Outcome, run_jobs
from samsvae.settings.fields import settings_of
from samsvae.settings.experiment import Experiment, Variant
from samsvae.settings.train import TrainPlan
from samsvae.storage.directory import Directory
from samsvae.storage.files import write_text
from samsvae.storage.files import read_json, write_json
from samsvae.storage.tables import write_csv

RECORD = "experiment.json"


class Laboratory(Directory):
    """A directory in which an experiment is made.

    It holds experiment.json (all that the results depend on), the screen, a run directory per model
    (`runs`; `unfinished`, as long as it is), its scores (`scores`), and what was wrong where a job
    failed (`failures`).
    """

    files: ClassVar[tuple[str, ...]] = (
        RECORD,
        SCREEN,
        SETTINGS,
        *(f"{name}/*" for name in ("runs", "unfinished", "scores", "failures")),
        *("results.csv", "pooled.csv", "table.csv", "choices.csv", "preparation.csv"),
        *("tables/*", "figures/*", "report.html", "report/*"),
    )

    @contextmanager
    def opened(
        self, experiment: Experiment, screen: Screen | Callable[[], Screen], *, resume: bool
    ) -> Iterator[None]:
        """Make the directory, or go on with the one that is there: within, jobs can be run.

        Parameters
        ----------
        experiment
            What is made.
        screen
            Its screen, or what gives it where it is not there yet.
        resume
            Go on.

        Raises
        ------
        InputError
            If another experiment was begun here, or the directory cannot be written.
        """
        record = experiment.record
        with self.made(resume=resume):
            if resume and (self / RECORD).exists():
                self._check(record)
            else:
                given = screen() if callable(screen) else screen
                write_material(self.folder, given)
                write_json(self / RECORD, record)
            self.settle()  # workers write here from now on
            yield

    def _check(self, record: dict[str, Any]) -> None:
        before = read_json(self / RECORD)
        for name in (*record, *before):
            was, now = before.get(name), record.get(name)
            if was != now:
                raise InputError(
                    f"the experiment in {self.shown} was started with other settings, {name} = "
                    f"{was!r}, not {now!r}: resume with the same command, or give another --out"
                )

    def run(
        self, jobs: Sequence[Job], *, say: Callable[[str], None], **how: Any
    ) -> dict[str, Outcome]:
        """Run jobs, see `run_jobs`; what was wrong with those that failed is written down."""
        failed = run_jobs(jobs, say=say, **how)
        for outcome in failed.values():
            say(f"failed: {outcome.name}: {outcome.error}")
            (self / "failures").mkdir(exist_ok=True)
            text = outcome.trace or f"{outcome.error}\n"
            write_text(self / f"failures/{outcome.name}.txt", text)
        for job in jobs:
            if job.is_done:
                (self / f"failures/{job.name}.txt").unlink(missing_ok=True)
        return failed


class Made(NamedTuple):
    """What an experiment gave."""

    fits: dict[tuple[str, Cell], Fit]
    """Trained models, by label and where they stand: of candidates the one chosen."""
    scores: list[Score]
    """Those that are there."""
    choices: pd.DataFrame
    """Of each candidate: label, fraction, its values, validation IWELBO, whether it was chosen."""


class Work:
    """The jobs of an experiment, in the order in which one needs the other.

    Parameters
    ----------
    laboratory
        Where.
    experiment
        What.
    """

    def __init__(self, laboratory: Laboratory, experiment: Experiment) -> None:
        self.laboratory, self.experiment = laboratory, experiment
        self.failed: dict[str, Outcome] = {}

    @cached_property
    def place(self) -> Path:
        return self.laboratory.place.resolve()

    @property
    def cells(self) -> list[Cell]:
        """Every fraction and seed."""
        given = self.experiment
        first = given.variants[0].settings["seed"]
        return [
            Cell(given.split, fraction, first + i)
            for fraction in given.fractions or (None,)
            for i in range(given.seeds)
        ]

    def fit(self, variant: Variant, choice: dict[str, Any], cell: Cell) -> Fit:
        """Return the job of training a variant."""
        n_particles = self.experiment.choice_particles
        return Fit(self.place, variant.label, choice, cell, variant.settings, n_particles)

    def made(self, *, engine: Engine, n_jobs: int | None, progress: bool, say: Any) -> Made:
        """Run everything that is not there yet; return what there is in the end.

        The candidates of a variant are trained at the first seed, and that of the best validation
        IWELBO at the others.
        """
        given = self.experiment
        how = {"engine": engine, "n_jobs": n_jobs, "progress": progress, "say": say}
        first = self.cells[0].seed
        tried = [
            self.fit(variant, choice, cell)
            for variant in given.variants
            if len(variant.choices) > 1
            for choice in variant.choices
            for cell in self.cells
            if cell.seed == first
        ]
        self.failed |= self.laboratory.run(tried, **how)
        choices = _choices(tried)
        best = choices[choices["chosen"]].set_index(["label", "cell"])["choice"]
        fits = {}
        for cell in self.cells:
            for variant in given.variants:
                choice = variant.choices[0]
                if len(variant.choices) > 1:
                    choice = best.get((variant.label, cell._replace(seed=first)))
                if choice is not None:  # no candidate could be trained
                    fits[variant.label, cell] = self.fit(variant, choice, cell)
        self.failed |= self.laboratory.run(list(fits.values()), **how)
        fits = {key: fit for key, fit in fits.items() if fit.is_done}
        scores = [Score(self.place, f.cell, given.scoring, given.scale, f) for f in fits.values()]
        simple = [
            Score(self.place, cell, given.scoring, given.scale, None, given.baselines)
            for cell in (self.cells[:1] if given.split == "given" else self.cells)
        ]
        self.failed |= self.laboratory.run([*scores, *simple], **how)
        done = [score for score in (*scores, *simple) if score.is_done]
        columns = ["label", "fraction", "values", "validation_iwelbo", "chosen"]
        return Made(fits, done, choices[columns])

    def raise_failures(self) -> None:
        """Raise if a job failed."""
        if self.failed:
            first = next(iter(self.failed.values()))
            raise FailedJobsError(
                f"{len(self.failed)} jobs failed, {first.name!r} with: {first.error}; all of it is "
                f"in {str(self.laboratory.place / 'failures')!r}, and the same command with "
                "--resume runs them again"
            )


def _choices(tried: Sequence[Fit]) -> pd.DataFrame:
    """Return the validation IWELBO of candidates, and which is the best of its kind."""
    rows = [
        {
            "label": fit.label,
            "cell": fit.cell,
            "fraction": np.nan if fit.cell.fraction is None else fit.cell.fraction,
            "choice": dict(fit.choice),
            "values": ", ".join(f"{name} = {value:g}" for name, value in fit.choice.items()),
            "validation_iwelbo": fit.validation,
        }
        for fit in tried
        if fit.is_done
    ]
    names = ["label", "cell", "fraction", "choice", "values", "validation_iwelbo"]
    table = pd.DataFrame(rows, columns=names)
    keys = [table["label"], table["cell"].astype(str)]
    best = table["validation_iwelbo"].fillna(-np.inf).groupby(keys).idxmax()
    return table.assign(chosen=table.index.isin(best))


def check(experiment: Experiment, screen: Screen) -> None:
    """Raise what training or a baseline would raise before its first step."""
    fraction = max(experiment.fractions, default=None)
    first = experiment.variants[0].settings["seed"]
    whole = with_split(screen, experiment.split, fraction=fraction, seed=first)
    for variant in experiment.variants:
        kind = estimator(variant.settings["model"])
        built = kind(whole, **settings_of(kind, variant.settings))
        built.check_training(**settings_of(TrainPlan, variant.settings))
    for name in experiment.baselines:
        by_name("baseline", name, BASELINES)(whole)


def write_choices(laboratory: Laboratory, choices: pd.DataFrame) -> None:
    """Write which candidates were chosen, where there was a choice."""
    if len(choices):
        write_csv(laboratory / "choices.csv", choices)
