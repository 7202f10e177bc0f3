"""Jobs of an experiment: models to be trained, and predictors to be scored.

A job reads all it needs from the experiment's directory and writes one folder into it, which is
complete or absent: it can run in any process, on any machine that sees the directory, and twice
without harm.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from samsvae._deprecated import PREDICTORS
from samsvae.analysis.effect_posterior import EffectPosterior
from samsvae.benchmark.ate_pearson import ate_pearson
from samsvae.benchmark.baselines import BASELINES
from samsvae.benchmark.evaluate import Evaluation, evaluated
from samsvae.benchmark.predictions import Predictor
from samsvae.data import splits
from samsvae.data.expression import control_cells
from samsvae.data.screen import Screen
from samsvae.estimators.base import Estimator, by_name
from samsvae.estimators.models import estimator
from samsvae.runs.run import CHECKPOINT, Run, read_experiment_data
from samsvae.settings.experiment import Experiment, Variant
from samsvae.settings.fields import settings_of
from samsvae.settings.questions import ScoreSettings
from samsvae.storage.directory import Directory
from samsvae.storage.files import read_json, write_json
from samsvae.storage.tables import read_csv, write_csv, write_h5ad
from samsvae.types import ALL_CONDITIONS, Scale

N_HALVINGS = 20
"""Halvings for the technical replicate, where the settings have none."""


class Replicate(NamedTuple):
    """One split of the experiment's screen, and the seed of the models trained on it."""

    split: str
    fraction: float | None
    seed: int

    @property
    def name(self) -> str:
        share = "" if self.fraction is None else f"-{100 * self.fraction:g}%"
        return f"{share}-seed{self.seed}"

    def split_of(self, screen: Screen) -> Screen:
        """Return a screen with this split, see `samsvae.settings.experiment.Experiment`."""
        if self.split == "given":
            return screen
        if self.split == "random" or self.fraction is None:
            return screen.with_split(splits.random(screen, seed=self.seed))
        norman = splits.norman_ood if self.split == "norman-ood" else splits.norman_data_efficiency
        return screen.with_split(norman(screen, fraction=self.fraction, seed=self.seed))


@dataclass(frozen=True)
class Job(ABC):
    """A job that writes a folder into the experiment's directory."""

    place: Path
    """The experiment's directory."""
    experiment: Experiment
    replicate: Replicate
    FOLDER: ClassVar[str]
    """Where in the directory the folders of such jobs are."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name, and that of its folder."""

    @abstractmethod
    def run(self) -> None:
        """Do the work, or go on where it was interrupted."""

    @property
    def folder(self) -> Path:
        return self.place / self.FOLDER / self.name

    @property
    def directory(self) -> Directory:
        """The directory that it writes: its folder, or what will be."""
        return Directory(self.folder)

    @property
    def is_done(self) -> bool:
        return self.folder.is_dir()

    def screen(self) -> Screen:
        """Return the screen with the split of the job."""
        return self.replicate.split_of(read_experiment_data(self.place))


@dataclass(frozen=True)
class TrainJob(Job):
    """A model to be trained."""

    variant: Variant
    choice: Mapping[str, Any]
    """The candidate's values."""
    FOLDER: ClassVar[str] = "runs"

    @property
    def label(self) -> str:
        return self.variant.label

    @property
    def name(self) -> str:
        choice = "".join(f"-{name}-{value:g}" for name, value in self.choice.items())
        return f"{slug(self.label)}{choice}{self.replicate.name}"

    @property
    def directory(self) -> Run:
        return Run(self.place / "unfinished" / self.name)

    def run(self) -> None:
        """Train the model, in a run among the unfinished ones until it is complete."""
        run = self.directory
        screen = self.screen()
        settings = {**self.variant.settings, **self.choice}
        settings |= {"seed": self.replicate.seed, "progress": False}
        resume = run.place.is_dir()
        with run.made(resume=resume):
            run.start(settings, screen, resume=resume)
            kind = estimator(settings["model"])
            model = kind(screen, **settings_of(kind, settings))
            run.train(model, settings, resume=resume)
            n_particles = self.experiment.choice_particles
            valid: dict[str, Any] = {"iwelbo": None}  # without validation cells
            if len(screen.valid):
                table = model.iwelbo(screen.valid, n_particles=n_particles, progress=False)
                valid["iwelbo"] = float(table["iwelbo"].mean())
                valid["mc_se"] = table.attrs["mean_mc_se"]
            write_json(run / "valid.json", {**valid, "n_particles": n_particles})
            (run / CHECKPOINT).unlink()  # a finished run is never resumed
        self.folder.parent.mkdir(exist_ok=True)
        os.replace(run.place, self.folder)
        with suppress(OSError):
            run.place.parent.rmdir()  # if no other run is unfinished

    @property
    def validation(self) -> float:
        """The validation IWELBO, nats per cell; NaN without validation cells."""
        value = read_json(self.folder / "valid.json")["iwelbo"]
        return float("nan") if value is None else float(value)

    def model(self) -> Estimator:
        """Return the trained model."""
        return Run(self.folder).model(self.variant.settings["device"])


@dataclass(frozen=True)
class ScoreJob(Job):
    """Predictors to be scored on the test cells of one split: a trained model, or baselines."""

    trained: TrainJob | None = None
    """The model; None: the experiment's baselines and the technical replicate."""
    FOLDER: ClassVar[str] = "scores"

    @property
    def name(self) -> str:
        return f"baselines{self.replicate.name}" if self.trained is None else self.trained.name

    @property
    def label(self) -> str:
        return "baselines" if self.trained is None else self.trained.label

    def run(self) -> None:
        """Score, and write scores.csv, pooled.csv and effects.*.h5ad of each predictor at once."""
        screen, scale = self.screen(), self.experiment.scale
        scoring = replace(self.experiment.scoring, progress=False)
        predictors: dict[str, Predictor] = {}
        if self.trained is not None:
            predictors[self.trained.label] = self.trained.model()
        else:
            scoring = replace(scoring, n_halvings=scoring.n_halvings or N_HALVINGS)
            # The technical replicate needs a predictor: the mean, if no baseline is to be scored.
            for name in self.experiment.baselines or ("perturbation-mean",):
                predictors[name] = by_name("baseline", name, BASELINES)(screen)
        draws = max(scoring.n_draws, 1)
        result = evaluated(predictors, screen, scoring, scale=scale, fixed_draws=draws)
        table = pooled_scores(result, screen, scale)
        self.folder.parent.mkdir(exist_ok=True)
        scores = self.directory
        with scores.made():
            write_csv(scores / "scores.csv", result.scores)
            write_csv(scores / "pooled.csv", table)
            for name, effects in result.effects.items():
                write_h5ad(scores / f"effects.{slug(name)}.h5ad", effects)

    @property
    def scores(self) -> pd.DataFrame:
        """Every metric, as `evaluate` returns them."""
        return read_csv(self.folder / "scores.csv").replace({"predictor": PREDICTORS})

    @property
    def pooled(self) -> pd.DataFrame:
        """The table of `pooled_scores`."""
        return read_csv(self.folder / "pooled.csv")


def pooled_scores(result: Evaluation, screen: Screen, scale: Scale) -> pd.DataFrame:
    """Return iwelbo and ate_pearson over all test cells, of training conditions and of unseen ones.

    One row per predictor: nats per cell, and the correlation over all test conditions x genes; NaN
    where it has none.
    """
    test = np.asarray(screen.split) == "test"
    reference = screen[test | control_cells(screen, test)]
    measured = set(reference.conditions)
    rows = []
    for name, effects in result.effects.items():
        scores = result.scores[result.scores["predictor"] == name].dropna(subset="value")
        of_all = scores[(scores["condition"] == ALL_CONDITIONS) & (scores["metric"] == "iwelbo")]
        iwelbo = r = np.nan
        if len(of_all):
            iwelbo = np.average(of_all["value"], weights=of_all["n_cells"])
        if measured.intersection(map(screen.registry.stored, effects.obs_names)):
            r = ate_pearson(effects.to_df(), reference, scale=scale).pooled
        rows.append({"predictor": name, "iwelbo": iwelbo, "ate_pearson": r})
    return pd.DataFrame(rows, columns=["predictor", "iwelbo", "ate_pearson"])


def score(
    model: Estimator,
    screen: Screen,
    settings: ScoreSettings,
    *,
    split: str = "test",
    baselines: bool = True,
) -> Evaluation:
    """Score a trained model on the scale of its likelihood, with intervals of its effects.

    With `baselines`, all baselines are trained on the screen's training cells and scored as well, a
    technical replicate and, given validation cells, the posterior of the effects from model and
    cells together.
    """
    matched = model.matched(screen)
    scale = model.default_scale
    predictors: list[Predictor] = [model]
    if not baselines:
        settings = replace(settings, n_halvings=0)
    else:
        if split == "test" and EffectPosterior.learns_from(matched):
            predictors.append(EffectPosterior(model, matched))
        predictors += [kind(matched) for kind in BASELINES]
    return evaluated(
        predictors, matched, settings, scale=scale, splits=[split], fixed_draws=settings.n_draws
    )


def slug(label: str) -> str:
    """Return a label as a file name.

    >>> slug("SAMS-VAE, mean field"), slug("SVAE+")
    ('sams-vae-mean-field', 'svae+')
    """
    kept = "".join(c if c.isalnum() or c in "+-_" else " " for c in label.lower())
    return "-".join(kept.split())
