"""Run directories: what `samsvae train` writes and the other commands read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from samsvae.data import splits
from samsvae.data.h5ad import read_h5ad
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.estimator import Estimator
from samsvae.estimators import ESTIMATORS, estimator, load
from samsvae.files import write_text, written_aside
from samsvae.options import Options, read_toml, toml
from samsvae.scoring.score import Score
from samsvae.train.settings import MAY_DIFFER, TrainSettings

KEYS = Options(Screen.from_anndata)
"""The settings that read a screen."""
NO_SETTINGS = ("checkpoint", "resume")
"""Parameters of what takes settings that are none of a run's."""
SETTINGS = Options(Screen.from_anndata, estimator, *ESTIMATORS, TrainSettings, without=NO_SETTINGS)
"""The settings of a run, of any model."""


def gathered(
    options: Mapping[str, Any], *, assignments: Iterable[str] = (), config: Path | None = None
) -> tuple[type[Estimator], dict[str, Any]]:
    """Return the model and all settings: options win over `--set`, and that over the file.

    A table of the file holds settings of the one model that it is named after.
    """
    where = f"in {str(config)!r}"
    file = {} if config is None else read_toml(config)
    tables = {
        estimator(model=name).name: SETTINGS.checked(file.pop(name), where)
        for name in [name for name, value in file.items() if isinstance(value, dict)]
    }
    general = SETTINGS.checked(file, where)
    nearer = SETTINGS.assigned(assignments) | dict(options)
    model = estimator(**SETTINGS.of(estimator, general | nearer))
    return complete(general | tables.get(model.name, {}) | nearer)


def complete(given: Mapping[str, Any]) -> tuple[type[Estimator], dict[str, Any]]:
    """Return the model that is asked for, and all settings of its run: what config.toml holds.

    Raises
    ------
    InputError
        If there is no such model, or a setting is of other models.
    """
    model = estimator(**SETTINGS.of(estimator, given))
    own = Options(Screen.from_anndata, estimator, model, TrainSettings, without=NO_SETTINGS)
    foreign = [name for name in given if name not in own.parameters]
    if foreign:
        takers = [one.name for one in ESTIMATORS if set(foreign) & SETTINGS.of(one, given).keys()]
        raise InputError(
            f"the model {model.name!r} has no setting {listed(foreign)}: leave it out, or take "
            f"another --model, such as {listed(takers)}"
        )
    return model, own.complete(given)


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
            _, before = complete(self.config())
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
        return SETTINGS.checked(read_toml(path), f"in {str(path)!r}")

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
        screen = read_h5ad(data, **(KEYS.of(Screen.from_anndata, config) | dict(given)))
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
    screen = read_h5ad(data, **KEYS.of(Screen.from_anndata, settings))
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
