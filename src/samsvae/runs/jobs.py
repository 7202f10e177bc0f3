"""One trained model, scored beside baselines.

The screen of an experiment, as a file that every job reads.

Jobs: models that are trained, and scored, each in a folder that is whole or not there.

A job reads all it needs from the experiment's directory and writes one folder into it, so that it
can run in any process, on any machine that sees the directory, and twice without harm.
"""

from __future__ import annotations

from dataclasses import replace
from samsvae.data.expression import control_cells
from samsvae.data.screen import Screen
from samsvae.estimators import Estimator
from samsvae.benchmark.baselines import BASELINES
from samsvae.analysis.effect_posterior import EffectPosterior
from samsvae.benchmark.evaluate import Evaluation, evaluated
from samsvae.benchmark.predictions import Predictor
from samsvae.settings.questions import ScoreSettings
from functools import lru_cache
from pathlib import Path
import numpy as np
import pandas as pd
import scipy.sparse as sp
from samsvae.data import splits
from samsvae.data.source import StoredCounts
from samsvae.storage.tables import write_h5ad
from samsvae.storage.files import read_json, write_json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol
from anndata import AnnData
from samsvae.estimators import Estimator, estimator
from samsvae.estimators.base import by_name
from samsvae.benchmark.ate_pearson import ate_pearson
from samsvae.runs.run import CHECKPOINT, Run
from samsvae.settings.fields import settings_of
from samsvae.storage.directory import Directory
from samsvae.storage.tables import read_csv, write_csv
from samsvae.types import ALL_CONDITIONS, Scale

def score(
    model: Estimator,
    screen: Screen,
    given: ScoreSettings,
    *,
    split: str = "test",
    baselines: bool = True,
) -> Evaluation:
    """Score a trained model on the scale of its likelihood; its effects get intervals.

    Parameters
    ----------
    model
        Trained.
    screen
        The whole screen; matched by gene and perturbation name.
    given
        How.
    split
        Whose cells are scored.
    baselines
        Beside all baselines and a technical duplicate, made from the screen's training cells, and
        what the model and the cells say together, where there are validation cells.
    """
    matched = model.matched(screen)
    others: list[Predictor] = [kind(matched) for kind in BASELINES] if baselines else []
    if not baselines:
        given = replace(given, n_halvings=0)
    scale = model.module.likelihood.scales[0]
    draws = given.n_draws
    beside: list[Predictor] = [model, *others]
    if baselines and split == "test" and EffectPosterior.learns_from(matched):
        beside.insert(1, EffectPosterior(model, matched))
    return evaluated(beside, matched, given, scale=scale, splits=[split], fixed_draws=draws)


SCREEN, SETTINGS = "screen.h5ad", "screen.json"


def write_material(folder: Path, screen: Screen) -> None:
    """Write a screen, and how it is to be read.

    What a file of it holds beside the counts: conditions, doses, batches, library sizes, split,
    sgRNAs. Counts that are in a file go from there to here, and are left here by those who read it.
    """
    counts = screen.counts
    stored = isinstance(counts, StoredCounts)
    empty = sp.csr_matrix(counts.shape, dtype=np.uint8 if screen.registry.counts else np.float32)
    adata = (replace(screen, counts=empty) if stored else screen).to_anndata()
    registry = screen.registry
    batches = [name for name in adata.obs if name.split("_")[0] == "batch"]
    settings = {
        "control": [registry.parser.control],
        "separator": registry.parser.separator,
        "dosage_key": "dosage" if "dosage" in adata.obs else None,
        "batch_key": batches,
        "library_size_key": None if registry.own_library_size else "library_size",
        "split_key": "split" if "split" in adata.obs else None,
        "gene_key": "symbol" if registry.symbols else None,
        "sgrna_key": "sgrna" if "sgrna" in adata.obs else None,
        "counts": registry.counts,
        "in_memory": screen.is_in_memory,
    }
    write_json(folder / SETTINGS, settings)
    rows = (lambda: (block for _, block in screen.blocks())) if stored else None
    write_h5ad(folder / SCREEN, adata, rows)


def read_material(folder: Path) -> Screen:
    """Return the screen that was written into a folder; a process reads it once."""
    return _read(folder, (folder / SCREEN).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(folder: Path, written: int) -> Screen:
    settings = read_json(folder / SETTINGS)
    several = {name: tuple(settings[name]) for name in ("control", "batch_key")}
    return Screen.open(folder / SCREEN, **{**settings, **several})


def with_split(screen: Screen, split: str, *, fraction: float | None, seed: int) -> Screen:
    """Return the screen split as an experiment says, see `samsvae.settings.experiment`."""
    if split == "given":
        return screen
    if split == "random" or fraction is None:
        return screen.with_split(splits.random(screen, seed=seed))
    kind = splits.norman_ood if split == "norman-ood" else splits.norman_data_efficiency
    return screen.with_split(kind(screen, fraction=fraction, seed=seed))


def fewer_cells(screen: Screen, share: float, *, least: int, seed: int = 0) -> Screen:
    """Return some cells of each condition, at random: a share of them, but at least so many.

    Parameters
    ----------
    screen
        The cells.
    share
        Of the cells of each condition.
    least
        Cells of a condition that are kept (all, where it has fewer); of control ten times as many.
    seed
        Same seed, same cells.
    """
    n_cells = np.bincount(screen.condition, minlength=len(screen.condition_names))
    floor = np.full(len(n_cells), least)
    floor[0] = 10 * least
    kept = np.minimum(n_cells, np.maximum(floor, np.round(share * n_cells)))
    order = np.random.default_rng(seed).permutation(len(screen))
    rank = pd.Series(screen.condition[order]).groupby(screen.condition[order]).cumcount()
    return screen[np.sort(order[rank.to_numpy() < kept[screen.condition[order]]])]


N_HALVINGS = 20
"""Of the duplicate beside baselines, where models have none."""


class Job(Protocol):
    """What a runner runs."""

    @property
    def name(self) -> str:
        """What it is called; its folder, too."""

    @property
    def is_done(self) -> bool:
        """Whether its folder is there."""

    def run(self) -> None:
        """Do it. It goes on where it was interrupted."""


class Cell(NamedTuple):
    """Where in an experiment a job stands."""

    split: str
    fraction: float | None
    seed: int

    @property
    def name(self) -> str:
        share = "" if self.fraction is None else f"-{100 * self.fraction:g}%"
        return f"{share}-seed{self.seed}"

    def screen(self, place: Path) -> Screen:
        """Return the experiment's screen with this split."""
        whole = read_material(place)
        return with_split(whole, self.split, fraction=self.fraction, seed=self.seed)


@dataclass(frozen=True)
class InFolder(ABC):
    """A job that leaves a folder in the experiment's directory."""

    place: Path
    """The experiment's directory."""
    FOLDER: ClassVar[str]
    """Where in it the folders of such jobs lie."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called; its folder, too."""

    @property
    def folder(self) -> Path:
        return self.place / self.FOLDER / self.name

    @property
    def is_done(self) -> bool:
        return self.folder.is_dir()


@dataclass(frozen=True)
class Fit(InFolder):
    """A model to be trained."""

    label: str
    choice: Mapping[str, Any]
    """The candidate's values."""
    cell: Cell
    settings: Mapping[str, Any]
    n_particles: int
    """Of the validation IWELBO."""
    FOLDER: ClassVar[str] = "runs"

    @property
    def name(self) -> str:
        choice = "".join(f"-{name}-{value:g}" for name, value in self.choice.items())
        return f"{slug(self.label)}{choice}{self.cell.name}"

    def run(self) -> None:
        """Train the model; until it is finished, its run lies among the unfinished ones."""
        run = Run(self.place / "unfinished" / self.name)
        screen = self.cell.screen(self.place)
        settings = {**self.settings, **self.choice, "seed": self.cell.seed, "progress": False}
        resume = run.place.is_dir()
        with run.made(resume=resume):
            run.start(settings, screen, resume=resume)
            kind = estimator(settings["model"])
            model = kind(screen, **settings_of(kind, settings))
            run.train(model, settings, resume=resume)
            write_json(run / "valid.json", self._validated(model, screen))
            (run / CHECKPOINT).unlink()  # a finished run is not gone on with
        self.folder.parent.mkdir(exist_ok=True)
        os.replace(run.place, self.folder)
        with suppress(OSError):
            run.place.parent.rmdir()  # where nothing else is unfinished

    def _validated(self, model: Estimator, screen: Screen) -> dict[str, Any]:
        """Return the validation IWELBO, where there are cells for it."""
        if not len(screen.valid):
            return {"iwelbo": None, "n_particles": self.n_particles}
        each = model.iwelbo(screen.valid, n_particles=self.n_particles, progress=False)
        found = {"iwelbo": float(each["iwelbo"].mean()), "mc_se": each.attrs["mean_mc_se"]}
        return {**found, "n_particles": self.n_particles}

    @property
    def validation(self) -> float:
        """The validation IWELBO, nats per cell; NaN: no cells to validate on."""
        value = read_json(self.folder / "valid.json")["iwelbo"]
        return float("nan") if value is None else float(value)


class Scores(Directory):
    """What one job of scores leaves: scores.csv, pooled.csv, effects.h5ad of each predictor."""

    files: ClassVar[tuple[str, ...]] = ("scores.csv", "pooled.csv", "effects.*.h5ad")


@dataclass(frozen=True)
class Score(InFolder):
    """Predictors to be scored on the test cells of one split: a trained model, or baselines."""

    cell: Cell
    scoring: ScoreSettings
    scale: Scale
    fit: Fit | None = None
    """The model; None: baselines, and a technical duplicate."""
    baselines: tuple[str, ...] = ()
    FOLDER: ClassVar[str] = "scores"

    @property
    def name(self) -> str:
        return f"baselines{self.cell.name}" if self.fit is None else self.fit.name

    @property
    def label(self) -> str:
        return "baselines" if self.fit is None else self.fit.label

    def run(self) -> None:
        """Score, and write everything at once."""
        screen = self.cell.screen(self.place)
        predictors, scoring = self._predictors(screen), replace(self.scoring, progress=False)
        if self.fit is None:
            scoring = replace(scoring, n_halvings=scoring.n_halvings or N_HALVINGS)
        draws = max(scoring.n_draws, 1)
        result = evaluated(predictors, screen, scoring, scale=self.scale, fixed_draws=draws)
        table = pooled(result, screen, self.scale)
        self.folder.parent.mkdir(exist_ok=True)
        scores = Scores(self.folder)
        with scores.made():
            write_csv(scores / "scores.csv", result.scores)
            write_csv(scores / "pooled.csv", table)
            for name, effects in result.effects.items():
                write_h5ad(scores / f"effects.{slug(name)}.h5ad", effects)

    def _predictors(self, screen: Screen) -> dict[str, Predictor]:
        if self.fit is not None:
            run = Run(self.fit.folder)
            return {self.fit.label: run.model(self.fit.settings["device"])}
        # The duplicate is scored beside any predictor: the mean, where no baseline is asked for.
        names = self.baselines or ("perturbation-mean",)
        kinds = [by_name("baseline", name, BASELINES) for name in names]
        return {kind.name: kind(screen) for kind in kinds}

    @property
    def scores(self) -> pd.DataFrame:
        """Every metric, as `evaluate` returns them."""
        return read_csv(self.folder / "scores.csv")

    @property
    def pooled(self) -> pd.DataFrame:
        """See `pooled`."""
        return read_csv(self.folder / "pooled.csv")


def pooled(result: Evaluation, screen: Screen, scale: Scale) -> pd.DataFrame:
    """Return iwelbo and ate_pearson of all test cells, whether their conditions were seen or not.

    One row per predictor: nats per cell, the correlation over all test conditions x genes, and
    NaN where it has none.
    """
    test = np.asarray(screen.split) == "test"
    reference = screen[test | control_cells(screen, test)]
    stored = screen.registry.stored
    rows = []
    for name in dict.fromkeys(result.effects):
        scores = result.scores[result.scores["predictor"] == name]
        of_all = scores[(scores["condition"] == ALL_CONDITIONS) & (scores["metric"] == "iwelbo")]
        known = of_all.dropna(subset="value")
        iwelbo = np.nan if known.empty else np.average(known["value"], weights=known["n_cells"])
        effects: AnnData = result.effects[name]
        known_there = any(stored(one) in reference.conditions for one in effects.obs_names)
        r = ate_pearson(effects.to_df(), reference, scale=scale).pooled if known_there else np.nan
        rows.append({"predictor": name, "iwelbo": iwelbo, "ate_pearson": r})
    return pd.DataFrame(rows, columns=["predictor", "iwelbo", "ate_pearson"])


def slug(label: str) -> str:
    """Return a name as the name of a file.

    >>> slug("SAMS-VAE, mean field"), slug("SVAE+")
    ('sams-vae-mean-field', 'svae+')
    """
    kept = "".join(c if c.isalnum() or c in "+-_" else " " for c in label.lower())
    return "-".join(kept.split())
