"""samsvae reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from samsvae.cli.console import NOTHING, given, say
from samsvae.settings.experiment import PreparationSettings
from samsvae.settings.fields import Settings

PreparationOptions = given(Settings(PreparationSettings))


def reproduce(
    name: Literal["replogle", "norman-ood", "norman-data-efficiency"],
    /,
    *,
    data: Path,
    out: Path,
    scale: float = 1.0,
    annotation: Path | None = None,
    published: Path | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    engine: Literal["local", "ray", "dask"] = "local",
    device: str = "auto",
    experiment: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    preparation: PreparationOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Run one of the paper's experiments whole: from the raw file to its tables and figures.

    docs/reproduce.md tells what to expect. The directory holds a folder per trained model and per
    scored one; the same command with --resume goes on with what is missing. A model that fails
    leaves the others alone, and is told at the end.

    Parameters
    ----------
    name
        Which.
    data
        Raw counts, as published (samsvae datasets fetch) or simulated (samsvae datasets stand-in).
    out
        Directory to make.
    scale
        Share of steps, particles, seeds and cells, to try the whole thing: 0.01 takes minutes.
    annotation
        JSON or CSV file of pathways (replogle) or kinds of interaction (norman); by default the
        .annotation.json beside the data.
    published
        CSV file of other numbers to print next to ours than those of the paper's Table 1: label,
        and any of iwelbo, pathway_accuracy, ate_pearson and their standard deviations (..._sd).
    seeds
        Of each model, if they are to differ from the experiment's.
    jobs
        Trainings at a time, each in a process of its own; by default as many as there are cores, or
        one where there is a GPU. 1 takes no other process.
    engine
        Where they run: "local", or a "ray" or "dask" cluster that sees --out.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    experiment
        TOML file of an experiment of your own, instead of the paper's.
    resume
        Keep what is finished and go on with the rest.
    overwrite
        Replace the experiment in an existing directory.
    progress
        Show a progress bar over jobs.
    """
    from dataclasses import replace

    from samsvae.reproduce.experiments import Reproduction, experiment_of
    from samsvae.runs.run import ExperimentDirectory

    directory = ExperimentDirectory(out)
    directory.check_new(overwrite=overwrite, resume=resume)
    options: dict[str, Any] = {"device": device}
    wanted = experiment_of(name if experiment is None else str(experiment), scale, options)
    if seeds is not None:
        wanted = replace(wanted, seeds=seeds)
    reproduction = Reproduction(
        name=name,
        data=data,
        directory=directory,
        experiment=wanted,
        scale=scale,
        preparation=PreparationSettings(**preparation),
        annotation=annotation,
        published=published,
        say=say,
    )
    runner = reproduction.run(resume=resume, engine=engine, n_jobs=jobs, progress=progress)
    runner.raise_failures()
