"""Run directories: what `samsvae train` writes and the other commands read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
import pandas as pd
from samsvae.data import splits
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.estimators import Estimator, load, saving
from samsvae.benchmark.evaluate import Evaluation
from samsvae.settings.fields import settings_of
from samsvae.settings.conventions import completed
from samsvae.settings.run import RUN, complete
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.fields import read_toml, toml
from samsvae.settings.train import MAY_DIFFER, TrainPlan, TrainSettings
from samsvae.storage.directory import Directory
from samsvae.storage.files import write_text
from samsvae.storage.tables import write_h5ad
from samsvae.storage.files import read_json, write_json
from samsvae.storage.tables import read_csv, write_csv

CHECKPOINT = "checkpoint.safetensors"


class Run(Directory):
    """A run directory.

    It holds config.toml (all settings), split.csv (where the split was made here),
    checkpoint.safetensors, model.json + model.safetensors, history.csv, and what
    `evaluate` adds: scores.csv, metrics.json, effects.h5ad; report.html and its complete tables in
    `report`; of a demonstration, true_shift.csv, recovery.json and summary.txt.
    """

    files: ClassVar[tuple[str, ...]] = (
        "config.toml",
        "split.csv",
        CHECKPOINT,
        "model.json",
        "model.safetensors",
        "history.csv",
        "scores.csv",
        "metrics.json",
        "effects.h5ad",
        "report.html",
        "report/*",
        "true_shift.csv",
        "recovery.json",
        "summary.txt",
    )

    def start(self, settings: Mapping[str, Any], screen: Screen, *, resume: bool) -> None:
        """Begin the run, or check that it is the one to be resumed."""
        if resume and (self / "config.toml").exists():
            before = complete(self.config())
            for name, value in settings.items():
                was = before.get(name)
                if name not in MAY_DIFFER and was != value:
                    raise InputError(
                        f"the run was started with {name} = {was!r}, not {value!r}: "
                        "resume with the same command, or start another run"
                    )
            return
        there = [name for name in self.files if (self / name).exists()]
        if there:
            raise InputError(
                f"no run to go on with in {self.shown}: it has no config.toml, but "
                f"{listed(there)}; --overwrite replaces them"
            )
        if settings["split_key"] is None and screen.split is not None:
            split = pd.Series(screen.split, screen.cells.rename("cell"), name="split")
            write_csv(self / "split.csv", split.reset_index())
        write_text(self / "config.toml", toml(settings))

    def train(self, model: Estimator, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Train a model, saved here on the way and in the end.

        At its first good checkpoint the run takes its place.
        """
        chosen = TrainSettings(
            **settings_of(TrainPlan, settings), checkpoint=self.file(CHECKPOINT), resume=resume
        )
        model.train_with(chosen, saved=self.settle)
        model.save(self.folder)
        write_csv(self / "history.csv", model.history)

    def config(self) -> dict[str, Any]:
        """Return the settings of the run."""
        if not (self / "config.toml").exists():
            raise InputError(f"no run in {self.shown}: it has no config.toml")
        self.check_links()
        path = self / "config.toml"
        return RUN.checked(read_toml(path), f"in {str(path)!r}")

    def screen(self, data: Path, given: Mapping[str, Any]) -> Screen:
        """Read a screen with the keys (and the split) of the run.

        Parameters
        ----------
        data
            The h5ad file.
        given
            Keys that differ from the run's.
        """
        config = self.config()
        keys = settings_of(ScreenSettings, config) | completed(given)
        if keys.get("labels") is not None and "labels" not in given:
            raise InputError(
                f"the run was trained with labels from {keys['labels']!r}: give --labels again, "
                "since no path that stands in a run is followed"
            )
        screen = Screen.open(data, **keys)
        if screen.split is None and (self / "split.csv").exists():
            table = read_csv(self / "split.csv")
            if set(table) != {"cell", "split"} or table.isna().any(axis=None):
                raise InputError(
                    f"{str(self / 'split.csv')!r} is damaged: expected the split of each cell; "
                    "give --split-key, or train anew"
                )
            screen = screen.with_split(table.set_index("cell")["split"])
        return screen

    def model(self, device: str = "auto") -> Estimator:
        """Return the trained model."""
        self.restore()
        if not self.folder.is_dir():
            raise InputError(f"no directory {self.shown}: expected a run of samsvae train")
        self.check_links()
        parts = [(self / name).exists() for name in (saving.NAMES, saving.TENSORS)]
        if (self / CHECKPOINT).exists() and not all(parts):
            raise InputError(
                f"the run in {self.shown} is not finished: go on with samsvae train --resume"
            )
        return load(self.folder, device=device)

    def check_scores(self) -> None:
        """Raise if there are scores here that others could not be added to."""
        self._metrics()
        self.scores()

    def write_scores(self, result: Evaluation, name: str) -> None:
        """Save scores of a model and what stands beside it, and the effects that were scored.

        Those of other splits are kept. metrics.json holds the model's own over all conditions.
        """
        splits = result.scores["split"].unique()
        before = self.scores()
        kept = [] if before is None else [before[~before["split"].isin(splits)]]
        scores = pd.concat([*(some for some in kept if len(some)), result.scores])
        write_csv(self / "scores.csv", scores)
        write_json(self / "metrics.json", self._metrics() | result.summary(name))
        if name in result.effects:
            write_h5ad(self / "effects.h5ad", result.effects[name])

    def _metrics(self) -> dict[str, Any]:
        path = self / "metrics.json"
        return read_json(path) if path.exists() else {}

    def scores(self) -> pd.DataFrame | None:
        """Return what `evaluate` has scored, every metric and condition; None if nothing yet."""
        path = self / "scores.csv"
        if not path.exists():
            return None
        table = read_csv(path)
        texts = {"predictor", "split", "condition", "metric", "scale"}
        numbers = table.drop(columns=texts, errors="ignore").dtypes
        is_complete = {"predictor", "split", "condition", "metric", "value"} <= set(table)
        if not is_complete or (numbers == object).any():
            raise InputError(f"{str(path)!r} is damaged (no table of scores): remove it")
        return table


def read_screen(data: Path, settings: Mapping[str, Any]) -> Screen:
    """Read the screen of a new run; without a split_key each condition is split by the seed."""
    screen = Screen.open(data, **settings_of(ScreenSettings, settings))
    if screen.split is not None:
        return screen
    if not screen.cells.is_unique:
        raise InputError(
            "cell names are not unique, so a split could not be saved: give --split-key, "
            "or make them unique with adata.obs_names_make_unique()"
        )
    return screen.with_split(splits.stratified(screen, seed=settings["seed"]))
