"""Models and baselines, trained and scored on one split: the paper's Table 1, with its floor and
ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count
from samsvae.estimators import ESTIMATORS, Estimator, estimator
from samsvae.estimators.base import Named, by_name
from samsvae.evaluation.baselines import BASELINES, Baseline
from samsvae.evaluation.evaluate import POOLED, evaluated
from samsvae.evaluation.halves import DUPLICATE
from samsvae.evaluation.subject import UNSEEN
from samsvae.experiments.job import Job, fit_and_score
from samsvae.experiments.run import Run
from samsvae.settings.by_name import settings_of
from samsvae.settings.evaluation import ScoreSettings
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.run import COMPARED, gathered
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.toml import toml
from samsvae.settings.train import TrainPlan
from samsvae.storage.directory import Directory
from samsvae.storage.files import write_text
from samsvae.storage.tables import read_csv, write_csv
from samsvae.types import Scale


class Plan(NamedTuple):
    """What is compared."""

    runs: list[dict[str, Any]]
    """All settings of each, the model and the seed among them."""
    baselines: list[type[Baseline]]

    @classmethod
    def of(
        cls,
        *,
        models: str,
        baselines: str,
        seeds: int,
        options: Mapping[str, Any],
        assignments: Iterable[str] = (),
        config: Path | None = None,
    ) -> Plan:
        """Read what is asked for. A setting is given to the models that have it.

        Parameters
        ----------
        models, baselines
            Names joined by commas; baselines also "all" or "none".
        seeds
            How many of each model: the setting `seed`, and those that follow it.
        options, assignments, config
            Settings, as `samsvae train` takes them.

        Raises
        ------
        InputError
            If a name is unknown or given twice, or a setting is of none of the models.
        """
        check_count("seeds", seeds)
        given = {**COMPARED.assigned(assignments), **options}
        kinds = _chosen("model", models, ESTIMATORS)
        taken = {model.name: _settings_of(model, given) for model in kinds}
        foreign = [name for name in given if not any(name in some for some in taken.values())]
        if foreign:
            raise InputError(
                f"none of the models compared has the setting {foreign[0]!r}: leave it out"
            )
        runs = []
        for model, some in taken.items():
            settings = gathered({**some, "model": model}, config=config)
            TrainPlan(**settings_of(TrainPlan, settings))  # told before the data are read
            runs += [{**settings, "seed": settings["seed"] + i} for i in range(seeds)]
        if baselines in ("all", "none"):
            return cls(runs, BASELINES if baselines == "all" else [])
        return cls(runs, _chosen("baseline", baselines, BASELINES))

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the first run: the ones that read the screen are the same in all."""
        return self.runs[0]

    def check(self, screen: Screen) -> None:
        """Raise what training or a baseline would raise before its first step."""
        for settings in {settings["model"]: settings for settings in self.runs}.values():
            model = estimator(settings["model"])
            built = model(screen, **settings_of(model, settings))
            built.check_training(**settings_of(TrainPlan, settings))
        for baseline in self.baselines:
            baseline(screen)


class Comparison(Directory):
    """A directory of runs, one per model and seed, and their scores.

    It holds comparison.toml (what is compared), a run directory per model and seed with its
    scores.csv, baselines.csv, and in the end results.csv and table.csv.
    """

    files: ClassVar[tuple[str, ...]] = (
        "comparison.toml",
        "baselines.csv",
        "results.csv",
        "table.csv",
        *(f"{model}-seed*/{name}" for model in MODEL_SETTINGS for name in Run.files),
    )

    def run(self, settings: Mapping[str, Any]) -> Run:
        """Return the run of a model and a seed."""
        return Run(Path(f"{settings['model']}-seed{settings['seed']}"), within=self)

    def start(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Begin the comparison, or check that it is the one to be resumed.

        Raises
        ------
        InputError
            If another comparison was started here.
        """
        path, text = self / "comparison.toml", toml(settings)
        if resume and path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise InputError(
                    f"the comparison in {self.shown} was started with other settings (see "
                    f"{path.name}): resume with the same command, or give another --out"
                )
            return
        write_text(path, text)
        for name in ("baselines.csv", "results.csv", "table.csv"):
            (self / name).unlink(missing_ok=True)

    def results(
        self,
        screen: Screen,
        plan: Plan,
        scoring: ScoreSettings,
        *,
        scale: Scale,
        resume: bool = False,
        say: Callable[[str], None] = print,
    ) -> pd.DataFrame:
        """Train and score everything that is not there yet; return and write the results.

        Parameters
        ----------
        screen
            The whole screen, with its split.
        plan
            What.
        scoring, scale
            As in `evaluate`.
        resume
            Keep what is finished, and go on with what is not.
        say
            Prints a line.

        Returns
        -------
        One row per predictor, seed, split, condition and metric, as `evaluate` returns them.
        """
        baselines = plan.baselines
        jobs = [Job(self.run(settings), settings, scoring, scale) for settings in plan.runs]
        folders = [fit_and_score(job, screen, resume=resume, say=say) for job in jobs]
        tables = [
            _own(read_csv(folder / "scores.csv"), settings)
            for folder, settings in zip(folders, plan.runs, strict=True)
        ]
        # The duplicate is scored beside any predictor: the mean, where no baseline is asked for.
        path = self / "baselines.csv"
        if not (resume and path.exists()):
            say("baselines and technical duplicate")
            predictors = [kind(screen) for kind in (baselines or BASELINES[1:2])]
            write_csv(path, evaluated(predictors, screen, scoring, scale=scale).scores)
        simple = read_csv(path)
        kept = {DUPLICATE, *(kind.name for kind in baselines)}
        tables.append(simple[simple["predictor"].isin(kept)])
        results = pd.concat(tables, ignore_index=True)
        seed = results.get("seed", pd.Series(pd.NA, results.index))  # baselines have none
        results = results.drop(columns="seed", errors="ignore")
        results.insert(1, "seed", seed.astype("Int64"))
        write_csv(self / "results.csv", results)
        write_csv(self / "table.csv", table_of(results))
        return results


def table_of(results: pd.DataFrame) -> pd.DataFrame:
    """Return, by split, predictor and metric, the pooled score: mean, sd over seeds, and how many.

    Parameters
    ----------
    results
        As `Comparison.results` returns them.
    """
    pooled = results[results["condition"] == POOLED]
    grouped = pooled.groupby(["split", "predictor", "metric"], sort=False)
    columns = {
        "mean": grouped["value"].mean(),
        "sd": grouped["value"].std(),
        "dynamic_range": grouped["dynamic_range"].mean(),
        "n_seeds": grouped["value"].count(),
    }
    return pd.DataFrame(columns).reset_index()


def _own(scores: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scores of a run's own model on test cells."""
    own = scores[scores["predictor"] == settings["model"]]
    return own[own["split"].isin(["test", UNSEEN])].assign(seed=settings["seed"])


def _settings_of(model: type[Estimator], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a model's run has."""
    sources = (ScreenSettings, MODEL_SETTINGS[model.name], TrainPlan)
    return {k: v for source in sources for k, v in settings_of(source, given).items()}


def _chosen(what: str, text: str, known: Sequence[type[Named]]) -> list[type[Named]]:
    """Return classes by their names, joined by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--{what}s {text!r}: expected names joined by commas")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--{what}s names {twice[0]!r} twice")
    return [by_name(what, name, known) for name in names]
