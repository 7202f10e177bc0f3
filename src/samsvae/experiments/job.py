"""A job: one model, trained and scored in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator, estimator
from samsvae.evaluation.baselines import BASELINES
from samsvae.evaluation.evaluate import Evaluation, evaluated
from samsvae.evaluation.predictor import Predictor
from samsvae.experiments.run import Run
from samsvae.settings.by_name import settings_of
from samsvae.settings.evaluation import ScoreSettings
from samsvae.types import Scale


class Job(NamedTuple):
    """What is to be trained and scored, and where."""

    run: Run
    """The run directory."""
    settings: Mapping[str, Any]
    """All settings of the run."""
    scoring: ScoreSettings
    """How it is scored."""
    scale: Scale
    """On which effects are."""


def fit_and_score(
    job: Job,
    screen: Screen,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Train a model and score it; return its folder, which then holds scores.csv.

    Parameters
    ----------
    job
        What.
    screen
        With its split.
    resume
        Keep what is finished in the folder, and go on with what is not.
    say
        Prints a line.
    """
    run, settings = job.run, job.settings
    with run.made(resume=resume):
        run.start(settings, screen, resume=resume)
        if not (resume and (run / "scores.csv").exists()):
            (run / "scores.csv").unlink(missing_ok=True)
            name = settings["model"]
            say(f"{name}, seed {settings['seed']}")
            trained = _finished(run, settings["device"]) if resume else None
            if trained is None:
                kind = estimator(name)
                trained = kind(screen, **settings_of(kind, settings))
                run.train(trained, settings, resume=resume)
            result = evaluated({name: trained}, screen, job.scoring, scale=job.scale)
            run.write_scores(result, name)
    return run.folder


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
        Beside all baselines and a technical duplicate, made from the screen's training cells.
    """
    matched = model.matched(screen)
    others: list[Predictor] = [kind(matched) for kind in BASELINES] if baselines else []
    if not baselines:
        given = replace(given, n_halvings=0)
    scale = model.module.likelihood.scales[0]
    draws = given.n_draws
    beside: list[Predictor] = [model, *others]
    return evaluated(beside, matched, given, scale=scale, splits=[split], fixed_draws=draws)


def _finished(run: Run, device: str) -> Estimator | None:
    """Return the model of a run that was finished; None: there is none, or it is not whole."""
    try:
        return run.model(device)
    except InputError:
        return None
