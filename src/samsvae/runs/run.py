"""Directories of results: a run, which holds one model, and an experiment, which holds several.

An experiment's directory also holds its screen, as a file that every job reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae._deprecated import PREDICTORS
from samsvae.benchmark.evaluate import Evaluation
from samsvae.data import splits
from samsvae.data.screen import Screen
from samsvae.data.source import StoredCounts
from samsvae.errors import InputError, check_unique_cells, listed
from samsvae.estimators import saving
from samsvae.estimators.base import Estimator
from samsvae.estimators.models import load
from samsvae.settings.conventions import completed
from samsvae.settings.experiment import RUN, Experiment, complete
from samsvae.settings.fields import read_toml, settings_of, toml
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import MAY_DIFFER, TrainPlan, TrainSettings
from samsvae.storage.directory import Directory
from samsvae.storage.files import read_json, write_json, write_text
from samsvae.storage.tables import read_csv, write_csv, write_h5ad

CHECKPOINT = "checkpoint.safetensors"
_OF_MODEL = ("scores.csv", "metrics.json", "effects.h5ad", "report.html")
"""Files that say something of the model: without it they are wrong."""
SCREEN, KEYS = "screen.h5ad", "screen.json"
RECORD = "experiment.json"


class Run(Directory):
    """A run directory.

    It holds config.toml (all settings), split.csv (if the split was made by the run),
    checkpoint.safetensors, model.json, model.safetensors and history.csv. `samsvae evaluate` adds
    scores.csv, metrics.json and effects.h5ad; a report is report.html, with its complete tables in
    the folder report; a demonstration adds true_shift.csv, recovery.json and summary.txt.
    """

    files: ClassVar[tuple[str, ...]] = (
        *("config.toml", "split.csv", CHECKPOINT, "model.json", "model.safetensors"),
        *("history.csv", "scores.csv", "metrics.json", "effects.h5ad", "report.html", "report/*"),
        *("true_shift.csv", "recovery.json", "summary.txt"),
    )
    also_read: ClassVar[tuple[str, ...]] = (SCREEN, "valid.json")

    def start(self, settings: Mapping[str, Any], screen: Screen, *, resume: bool) -> None:
        """Start the run, or check that it is the one to be resumed."""
        if resume and (self / "config.toml").exists():
            before = complete(self.config())
            for name, value in complete(RUN.stored(settings)).items():
                if name not in MAY_DIFFER and before.get(name) != value:
                    raise InputError(
                        f"the run was started with {name} = {before.get(name)!r}, not {value!r}: "
                        "resume with the same command, or start another run"
                    )
            return
        present = [name for name in self.files if (self / name).exists()]
        if present:
            raise InputError(
                f"no run to go on with in {self.shown}: it has no config.toml, but "
                f"{listed(present)}; --overwrite replaces them"
            )
        if settings["split_key"] is None and screen.split is not None:
            split = pd.Series(screen.split, screen.cells.rename("cell"), name="split")
            write_csv(self / "split.csv", split.reset_index())
        write_text(self / "config.toml", toml(settings))

    def train(self, model: Estimator, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Train a model and save it here.

        A new run replaces an old one at its first good checkpoint. What was said of the model
        that is trained on goes with the first step.
        """

        def saved() -> None:
            self.move_into_place()
            for name in _OF_MODEL:
                (self / name).unlink(missing_ok=True)

        plan = TrainSettings(
            **settings_of(TrainPlan, settings), checkpoint=self.file(CHECKPOINT), resume=resume
        )
        model.train_with(plan, saved=saved)
        model.save(self.folder)
        write_csv(self / "history.csv", model.history)

    def config(self) -> dict[str, Any]:
        """Return the settings of the run."""
        path = self / "config.toml"
        if not path.exists():
            raise InputError(f"no run in {self.shown}: it has no config.toml")
        self.check_links()
        return RUN.checked(read_toml(path), f"in {str(path)!r}")

    def screen(self, data: Path, keys: Mapping[str, Any]) -> Screen:
        """Read a screen as the run's was read, with the split of the run.

        `keys` are settings of reading that differ from the run's.
        """
        settings = settings_of(ScreenSettings, self.config()) | completed(keys)
        for name in ("labels", "feature_reference"):
            if settings.get(name) is not None and name not in keys:
                raise InputError(
                    f"the run was trained with {name} from {settings[name]!r}: give "
                    f"--{name.replace('_', '-')} again, since paths that are stored in a run are "
                    "never opened"
                )
        screen = Screen.open(data, **settings)
        if screen.split is None and (self / "split.csv").exists():
            table = read_csv(self / "split.csv")
            if set(table) != {"cell", "split"} or table.isna().any(axis=None):
                raise InputError(
                    f"{str(self / 'split.csv')!r} is damaged: expected the split of each cell; "
                    "give --split-key, or train again"
                )
            screen = screen.with_split(table.set_index("cell")["split"])
        return screen

    def model(self, device: str = "auto") -> Estimator:
        """Return the trained model."""
        self.restore()
        if not self.folder.is_dir():
            raise InputError(f"no directory {self.shown}: expected a run of samsvae train")
        self.check_links()
        is_saved = all((self / name).exists() for name in (saving.NAMES, saving.TENSORS))
        if (self / CHECKPOINT).exists() and not is_saved:
            raise InputError(
                f"the run in {self.shown} is not finished: go on with samsvae train --resume"
            )
        return load(self.folder, device=device)

    @contextmanager
    def of_one_model(self) -> Iterator[None]:
        """Let nobody replace the model while it is asked, and the answers are written here."""
        self.restore()
        with self.held() if self.place.is_dir() else nullcontext():
            yield

    def write_scores(self, result: Evaluation, name: str) -> None:
        """Save the scores of all predictors, and the effects that the model was scored by.

        Scores of other splits are kept. metrics.json holds the model's own over all conditions.
        """
        splits = result.scores["split"].unique()
        before = self.scores()
        kept = [] if before is None else [before[~before["split"].isin(splits)]]
        scores = pd.concat([*(table for table in kept if len(table)), result.scores])
        write_csv(self / "scores.csv", scores)
        write_json(self / "metrics.json", self.metrics() | result.summary(name))
        if name in result.effects:
            write_h5ad(self / "effects.h5ad", result.effects[name])

    def metrics(self) -> dict[str, Any]:
        """Return the saved scores of the model over all conditions, by split; maybe none."""
        path = self / "metrics.json"
        return read_json(path) if path.exists() else {}

    def scores(self) -> pd.DataFrame | None:
        """Return the saved scores, every metric and condition; None if there are none yet."""
        path = self / "scores.csv"
        if not path.exists():
            return None
        table = read_csv(path).replace({"predictor": PREDICTORS})
        texts = {"predictor", "split", "condition", "metric", "scale"}
        numbers = table.drop(columns=texts, errors="ignore").dtypes
        is_complete = {"predictor", "split", "condition", "metric", "value"} <= set(table)
        if not is_complete or any(dtype.kind == "O" for dtype in numbers):
            raise InputError(f"{str(path)!r} is damaged (no table of scores): remove it")
        return table


def read_screen(data: Path, settings: Mapping[str, Any]) -> Screen:
    """Read the screen of a new run; without a split_key each condition is split by the seed."""
    screen = Screen.open(data, **settings_of(ScreenSettings, settings))
    return with_own_split(screen, seed=settings["seed"])


def with_own_split(screen: Screen, *, seed: int) -> Screen:
    """Return a screen with its split, or with one that a run can save."""
    if screen.split is not None:
        return screen
    check_unique_cells(
        screen.cells, "without --split-key the split of the run is saved, and matched with cells"
    )
    return screen.with_split(splits.stratified(screen, seed=seed))


class ExperimentDirectory(Directory):
    """A directory in which an experiment is run.

    It holds experiment.json (all that the results depend on), the screen, a run directory for each
    model (in `runs`; in `unfinished` until it is trained), its scores (`scores`), and the errors of
    jobs that failed (`failures`).
    """

    files: ClassVar[tuple[str, ...]] = (
        *(RECORD, SCREEN, KEYS, "runs/*", "unfinished/*", "scores/*", "failures/*"),
        *("results.csv", "pooled.csv", "table.csv", "choices.csv", "preparation.csv"),
        *("tables/*", "figures/*", "report.html", "report/*"),
    )
    also_read: ClassVar[tuple[str, ...]] = ("scores/*/*",)

    @contextmanager
    def opened(
        self,
        experiment: Experiment,
        screen: Callable[[], Screen],
        *,
        resume: bool,
        source: Mapping[str, Any],
    ) -> Iterator[None]:
        """Make the directory, or go on with an existing one: jobs run inside the `with` block.

        `screen` makes the experiment's screen, for a new directory only; `source` says, by name,
        what it is made of. It is an error if the directory belongs to another experiment or screen.
        """
        record, advice = experiment.record, "give another --out"
        with self.made(resume=resume):
            if resume and (self / RECORD).exists():
                stored = read_json(self / RECORD)
                data = stored.pop("data", source)  # written by this version only
                started = f"the experiment in {self.shown} was started with"
                for name in (*record, *stored):
                    if stored.get(name) != record.get(name):
                        raise InputError(
                            f"{started} other settings, {name} = {stored.get(name)!r}, not "
                            f"{record.get(name)!r}: resume with the same command, or {advice}"
                        )
                for name, value in source.items():
                    if data.get(name) != value:
                        raise InputError(
                            f"{started} another {name}: resume with the same data and settings, "
                            f"or {advice}"
                        )
            else:
                write_experiment_data(self.folder, screen())
                write_json(self / RECORD, {**record, "data": source})
            self.move_into_place()  # jobs write here from now on
            try:
                yield
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(
                    f"stopped: the same command with --resume goes on with {self.shown}"
                ) from error


def digest_of(screen: Screen) -> str:
    """Return a digest of a screen's cells and their split."""
    split = np.asarray(screen.split, dtype=str)
    return hashlib.blake2b(f"{screen.digest} {split.tolist()}".encode(), digest_size=16).hexdigest()


def write_experiment_data(folder: Path, screen: Screen) -> None:
    """Write a screen into a folder, and the settings by which it is read.

    The file holds counts, conditions, doses, batches, library sizes, split, sgRNAs, replicates and
    what else is known of the cells.
    Counts that are not in memory are copied from file to file, and whoever reads the screen leaves
    them there.
    """
    if screen.absence is not None:
        raise InputError(
            "the screen has cells of uncertain sgRNAs, which an experiment of several models does "
            "not keep: read it without uncertain_sgrnas (--uncertain-sgrnas)"
        )
    counts, registry = screen.counts, screen.registry
    is_stored = isinstance(counts, StoredCounts)
    names = ["batch", *(f"batch_{i}" for i in range(2, len(registry.batch_levels) + 1))]
    names = names[: len(registry.batch_levels)]
    empty = sp.csr_matrix(counts.shape, dtype=np.uint8 if registry.counts else np.float32)
    adata = (replace(screen, counts=empty) if is_stored else screen).to_anndata()
    settings = {
        "control": [registry.parser.control],
        "separator": registry.parser.separator,
        "dosage_key": "dosage" if (screen.dosage.data != 1).any() else None,
        "context_key": names[: registry.context_columns],
        "batch_key": names[registry.context_columns :],
        "library_size_key": None if registry.own_library_size else "library_size",
        "split_key": "split" if screen.split is not None else None,
        "gene_key": "symbol" if registry.symbols else None,
        "sgrna_key": "sgrna" if screen.sgrna is not None else None,
        "replicate_key": "replicate" if screen.replicate is not None else None,
        "counts": registry.counts,
        "in_memory": screen.is_in_memory,
    }
    write_json(folder / KEYS, settings)
    rows = (lambda: (block for _, block in screen.blocks())) if is_stored else None
    write_h5ad(folder / SCREEN, adata, rows)


def read_experiment_data(folder: Path) -> Screen:
    """Return the screen that was written into a folder; a process reads it once."""
    return _read(folder, (folder / SCREEN).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(folder: Path, time_written: int) -> Screen:
    settings = read_json(folder / KEYS)
    several = {
        name: tuple(settings.get(name, ())) for name in ("control", "batch_key", "context_key")
    }
    return Screen.open(folder / SCREEN, **{**settings, **several})
