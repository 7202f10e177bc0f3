"""samsvae train.

samsvae demo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samsvae.cli.console import NOTHING, Assignments, given, say
from samsvae.ops.device import rank
from samsvae.settings.fields import settings_of
from samsvae.settings.run import RUN, gathered
from samsvae.settings.train import TrainPlan

RunOptions = given(RUN)


def train(
    data: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    assignments: Assignments = None,
    resume: bool = False,
    overwrite: bool = False,
    report: bool = True,
    settings: RunOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Train a model on a screen and save it in a run directory.

    Every setting is an option, a key of the TOML file, or a name for --set; some are of certain
    models only. Without --split-key the cells of each condition are split 64/16/20 at random by the
    seed, and the split is saved.

    Parameters
    ----------
    data
        The screen, an h5ad file.
    out
        Run directory to make.
    config
        TOML file of settings; options win over it. A table in it, such as [cpa-vae], is of that
        model only.
    assignments
        A setting, as name=value; may be repeated.
    resume
        Go on with an interrupted run: the same command, with this flag.
    overwrite
        Replace the run in an existing directory.
    report
        Write report.html into the run, in the end.
    """
    import numpy as np

    from samsvae.estimators import estimator
    from samsvae.runs.reporting import report_run
    from samsvae.runs.run import Run, read_screen
    from samsvae.train.validator import PRECISE

    run = Run(out)
    options: dict[str, Any] = settings
    chosen = gathered(options, assignments=assignments or (), config=config)
    for one, other in (("max_steps", "max_epochs"), ("max_epochs", "max_steps")):
        if one in options and other not in options:  # an option wins over its rival in a file
            chosen[other] = None
    first = rank() == 0  # of processes that train together it alone writes, and says so
    if first:
        run.check_new(overwrite=overwrite, resume=resume)
    training = settings_of(TrainPlan, chosen)
    TrainPlan(**training)  # a value out of range is told before the data are read
    screen = read_screen(data, chosen)
    if first:
        say(repr(screen))
    kind = estimator(chosen["model"])
    model = kind(screen, **settings_of(kind, chosen))
    model.check_training(**training)  # nor is a run replaced by one that cannot be trained
    if not first:
        model.train(**training, resume=resume)
        return
    with run.made(resume=resume):
        run.start(chosen, screen, resume=resume)
        run.train(model, chosen, resume=resume)
        if report:
            path = report_run(run, model, screen, progress=chosen["progress"])
    best = model.history[model.history["is_best"]].tail(1)  # none without validation cells
    elbo, mc_se = (best[name].sum(min_count=1) for name in ("valid_elbo", "valid_elbo_mc_se"))
    if bool(model.history["is_best"].iloc[-1]):
        say("the last validation ELBO is the best: still improving, train longer (--max-steps)")
    error = f"mc_se {mc_se:.3f}" + (", with all draws that are taken" if mc_se > PRECISE else "")
    told = "" if np.isnan(elbo) else f"best validation ELBO {elbo:.3f} ({error}) nats per cell; "
    say(f"{told}the model is in {out}")
    if report:
        say(f"the report is {path}: open it in a browser")


def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Simulate a screen whose truth is known, train on it, and tell what was recovered.

    Parameters
    ----------
    out
        Run directory to make.
    seed
        Of the simulation and of training.
    overwrite
        Replace the run in an existing directory.
    progress
        Show progress bars.
    """
    from samsvae.runs.demo import demonstrate
    from samsvae.runs.run import Run

    run = Run(out)
    run.check_new(overwrite=overwrite, resume=False)
    demonstrate(run, seed=seed, progress=progress, say=say)
