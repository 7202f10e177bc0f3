"""Models and baselines, trained and scored on one split: the paper's Table 1, with its floor and
ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from samsvae.baselines import BASELINES, Baseline
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count
from samsvae.estimator import Estimator, Named, by_name
from samsvae.estimators import ESTIMATORS
from samsvae.files import write_text
from samsvae.options import Options, toml
from samsvae.run import NO_SETTINGS, SETTINGS, Run, gathered
from samsvae.scoring.evaluate import DUPLICATE, POOLED, evaluate
from samsvae.train.settings import TrainSettings

COMPARED = Options(Screen.from_anndata, *ESTIMATORS, TrainSettings, without=NO_SETTINGS)
"""The settings of a comparison's runs."""


class Plan(NamedTuple):
    """What is compared."""

    models: list[tuple[type[Estimator], dict[str, Any]]]
    """With all settings of their run, the seed among them."""
    baselines: list[type[Baseline]]

    @classmethod
    def of(
        cls,
        *,
        models: str,
        baselines: str,
        seeds: int,
        settings: Mapping[str, Any],
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
        settings, assignments, config
            As `samsvae train` takes them.

        Raises
        ------
        InputError
            If a name is unknown or given twice, or a setting is of none of the models.
        """
        check_count("seeds", seeds)
        given = {**COMPARED.assigned(assignments), **settings}
        kinds = _chosen("model", models, ESTIMATORS)
        own = {model: _settings_of(model, given) for model in kinds}
        foreign = [name for name in given if not any(name in taken for taken in own.values())]
        if foreign:
            raise InputError(
                f"none of the models compared has the setting {foreign[0]!r}: leave it out"
            )
        runs = []
        for model, taken in own.items():
            _, complete = gathered({**taken, "model": model.name}, config=config)
            TrainSettings(**SETTINGS.of(TrainSettings, complete))  # told before the data are read
            runs += [(model, {**complete, "seed": complete["seed"] + i}) for i in range(seeds)]
        if baselines in ("all", "none"):
            return cls(runs, BASELINES if baselines == "all" else [])
        return cls(runs, _chosen("baseline", baselines, BASELINES))

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the first run: the ones that read the screen are the same in all."""
        return self.models[0][1]

    def check(self, screen: Screen) -> None:
        """Raise what training or a baseline would raise before its first step."""
        for model, settings in dict(self.models).items():
            built = model(screen, **SETTINGS.of(model, settings))
            built.check_training(**SETTINGS.of(TrainSettings, settings))
        for baseline in self.baselines:
            baseline(screen)


class Comparison:
    """A directory of runs, one per model and seed, and their scores.

    It holds comparison.toml (what is compared), a run directory per model and seed with its
    scores.csv, baselines.csv, and in the end results.csv and table.csv.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def run(self, model: type[Estimator], seed: int) -> Run:
        """Return the run of a model and a seed."""
        return Run(self / f"{model.name}-seed{seed}")

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
                    f"the comparison in {str(self.folder)!r} was started with other settings (see "
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
        *,
        resume: bool = False,
        say: Callable[[str], None] = print,
        **scoring: Any,
    ) -> pd.DataFrame:
        """Train and score everything that is not there yet; return and write the results.

        Parameters
        ----------
        screen
            The whole screen, with its split.
        plan
            What.
        resume
            Keep what is finished, and go on with what is not.
        say
            Prints a line.
        **scoring
            As in `evaluate`.

        Returns
        -------
        One row per predictor, seed, split, condition and metric, as `evaluate` returns them.
        """
        baselines, scoring = plan.baselines, {"progress": plan.settings["progress"], **scoring}
        tables = [
            self._scored(model, settings, screen, resume=resume, say=say, **scoring)
            for model, settings in plan.models
        ]
        # The duplicate is scored beside any predictor: the mean, where no baseline is asked for.
        path = self / "baselines.csv"
        if not (resume and path.exists()):
            say("baselines and technical duplicate")
            predictors = [kind(screen) for kind in (baselines or BASELINES[1:2])]
            write_text(path, evaluate(predictors, screen, **scoring).to_csv(index=False))
        simple = pd.read_csv(path)
        kept = {DUPLICATE, *(kind.name for kind in baselines)}
        tables.append(simple[simple["predictor"].isin(kept)])
        results = pd.concat(tables, ignore_index=True)
        seed = results.get("seed", pd.Series(pd.NA, results.index)).astype(
            "Int64"
        )  # baselines: none
        results = results.drop(columns="seed", errors="ignore")
        results.insert(1, "seed", seed)
        write_text(self / "results.csv", results.to_csv(index=False))
        write_text(self / "table.csv", table_of(results).to_csv(index=False))
        return results

    def _scored(
        self,
        model: type[Estimator],
        settings: dict[str, Any],
        screen: Screen,
        *,
        resume: bool,
        say: Callable[[str], None],
        **scoring: Any,
    ) -> pd.DataFrame:
        """Train and score one model, or what is left of that."""
        run = self.run(model, settings["seed"])
        path = run / "scores.csv"
        run.start(settings, screen, resume=resume)
        if not (resume and path.exists()):
            path.unlink(missing_ok=True)
            say(f"{model.name}, seed {settings['seed']}")
            if resume and (run / "model.json").exists():
                trained = run.model(settings["device"])
            else:
                trained = model(screen, **SETTINGS.of(model, settings))
                training = SETTINGS.of(TrainSettings, settings)
                trained.train(**training, checkpoint=run.checkpoint, resume=resume)
                run.finish(trained)
            scores = evaluate({model.name: trained}, screen, **scoring)
            scores = scores[scores["predictor"] == model.name].assign(seed=settings["seed"])
            write_text(path, scores.to_csv(index=False))
        return pd.read_csv(path)


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


def _settings_of(model: type[Estimator], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a model's run has."""
    sources: tuple[Callable[..., Any], ...] = (Screen.from_anndata, model, TrainSettings)
    return {k: v for source in sources for k, v in COMPARED.of(source, given).items()}


def _chosen(what: str, text: str, known: Sequence[type[Named]]) -> list[type[Named]]:
    """Return classes by their names, joined by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--{what}s {text!r}: expected names joined by commas")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--{what}s names {twice[0]!r} twice")
    return [by_name(what, name, known) for name in names]
