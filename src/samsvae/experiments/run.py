"""Run directories: what `samsvae train` writes and the other commands read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from samsvae.data import splits
from samsvae.data.h5ad import read_h5ad
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator, load
from samsvae.evaluation.score import Score
from samsvae.settings.by_name import settings_of
from samsvae.settings.run import RUN, complete
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.toml import read_toml, toml
from samsvae.settings.train import MAY_DIFFER
from samsvae.storage.files import write_text, written_aside


class Run:
    """A run directory.

    It holds config.toml (all settings), split.csv (where the split was made here),
    checkpoint.safetensors (while training), model.json + model.safetensors, history.csv, and what
    `evaluate` adds: metrics.json, per_condition.csv, effects.h5ad, scores.csv.
    """

    files = (
        "config.toml",
        "split.csv",
        "checkpoint.safetensors",
        "model.json",
        "model.safetensors",
        "history.csv",
        "metrics.json",
        "per_condition.csv",
        "effects.h5ad",
        "scores.csv",
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def checkpoint(self) -> Path:
        """File of the training checkpoint."""
        return self / "checkpoint.safetensors"

    def check_new(self, *, overwrite: bool, resume: bool) -> None:
        """Raise if the directory exists and may not be written to."""
        if self.folder.is_file():
            raise InputError(f"{str(self.folder)!r} is a file: expected a directory for the run")
        if self.folder.exists() and not (overwrite or resume):
            raise InputError(
                f"the directory {str(self.folder)!r} exists: give another --out, --overwrite to "
                "replace the run in it, or --resume to go on with it"
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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make {str(self.folder)!r}: {error.strerror}") from error
        for name in self.files:
            (self / name).unlink(missing_ok=True)
        if settings["split_key"] is None and screen.split is not None:
            split = pd.Series(screen.split, screen.cells.rename("cell"), name="split")
            write_text(self / "split.csv", split.to_csv())
        write_text(self / "config.toml", toml(settings))

    def config(self) -> dict[str, Any]:
        """Return the settings of the run."""
        if not (self / "config.toml").exists():
            raise InputError(f"no run in {str(self.folder)!r}: it has no config.toml")
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
        screen = read_h5ad(data, **(settings_of(ScreenSettings, config) | dict(given)))
        if screen.split is None and (self / "split.csv").exists():
            table = pd.read_csv(self / "split.csv", dtype=str, keep_default_na=False)
            screen = screen.with_split(table.set_index("cell")["split"])
        return screen

    def model(self, device: str = "auto") -> Estimator:
        """Return the trained model."""
        if not self.folder.is_dir():
            raise InputError(f"no directory {str(self.folder)!r}: expected a run of samsvae train")
        if self.checkpoint.exists() and not (self / "model.json").exists():
            raise InputError(
                f"the run in {str(self.folder)!r} is not finished: go on with samsvae train "
                "--resume"
            )
        return load(self.folder, device=device)

    def finish(self, model: Estimator) -> None:
        """Save the trained model and its history."""
        model.save(self.folder)
        write_text(self / "history.csv", model.history.to_csv(index=False))

    def write_score(self, score: Score, split: str) -> None:
        """Save scores and the effects that were scored."""
        path = self / "metrics.json"
        metrics = json.loads(path.read_text()) if path.exists() else {}
        write_text(path, json.dumps(metrics | {split: score.summary}, indent=2) + "\n")
        write_text(self / "per_condition.csv", score.per_condition.to_csv())
        write_h5ad(self / "effects.h5ad", score.effects)

    def write_comparison(self, scores: pd.DataFrame) -> None:
        """Save the scores of a model and of what it is compared with."""
        write_text(self / "scores.csv", scores.to_csv(index=False))


def read_screen(data: Path, settings: Mapping[str, Any]) -> Screen:
    """Read the screen of a new run; without a split_key it is split at random by the seed."""
    screen = read_h5ad(data, **settings_of(ScreenSettings, settings))
    if screen.split is not None:
        return screen
    if not screen.cells.is_unique:
        raise InputError(
            "cell names are not unique, so a random split could not be saved: give --split-key, "
            "or make them unique with adata.obs_names_make_unique()"
        )
    return screen.with_split(splits.random(screen, seed=settings["seed"]))


def write_h5ad(path: Path, adata: AnnData) -> None:
    """Write an AnnData object aside, then rename it."""
    with written_aside(path) as aside:
        adata.write_h5ad(aside)
