"""A job: one model, trained and scored in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator, estimator
from samsvae.evaluation.evaluate import evaluate
from samsvae.experiments.run import Run
from samsvae.settings.by_name import settings_of


class Job(NamedTuple):
    """What is to be trained and scored, and where."""

    run: Run
    """The run directory."""
    settings: Mapping[str, Any]
    """All settings of the run."""
    scoring: Mapping[str, Any]
    """Of `samsvae.evaluate`."""


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
            scores = evaluate({name: trained}, screen, **job.scoring)
            run.write_comparison(scores[scores["predictor"] == name].assign(seed=settings["seed"]))
    return run.folder


def _finished(run: Run, device: str) -> Estimator | None:
    """Return the model of a run that was finished; None: there is none, or it is not whole."""
    try:
        return run.model(device)
    except InputError:
        return None
