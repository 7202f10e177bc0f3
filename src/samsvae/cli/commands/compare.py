"""samsvae compare."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from samsvae.cli.console import console, say
from samsvae.cli.options import NOTHING, Assignments, given
from samsvae.settings.evaluation import ScoreSettings
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.run import COMPARED
from samsvae.types import Scale

ComparedOptions = given(COMPARED)


def compare(
    data: Path,
    /,
    *,
    out: Path,
    models: str = ",".join(MODEL_SETTINGS),
    baselines: str = "all",
    seeds: int = 5,
    scale: Scale = "log",
    basal: Literal["prior", "control"] = "prior",
    config: Path | None = None,
    assignments: Assignments = None,
    jobs: int | None = None,
    engine: Literal["local", "ray", "dask"] = "local",
    resume: bool = False,
    overwrite: bool = False,
    report: bool = True,
    settings: ComparedOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Train models and score them, with baselines and a technical duplicate, on one split.

    Prints the pooled scores and writes results.csv (every metric, per condition, predictor and
    seed) and table.csv. docs/evaluation.md says what the metrics tell. A model that fails leaves
    the others alone, and is told at the end. An interrupted comparison goes on with the same
    command and --resume. Settings are those of train, each given to the models that have it.

    Parameters
    ----------
    data
        The screen, an h5ad file.
    out
        Directory to make: runs, scores and results.
    models
        Names joined by commas.
    baselines
        Names joined by commas, "all" or "none".
    seeds
        How many seeds of each model: --seed and those that follow it.
    scale
        On which effects are scored: "log", "normalized" or "mean".
    basal
        Basal states of the models' effects: from their "prior" or of "control" cells.
    config
        TOML file of settings; options win over it. A table in it, such as [cpa-vae], is of that
        model only.
    assignments
        A setting, as name=value; may be repeated.
    jobs
        Trainings at a time, each in a process of its own; by default as many as there are cores, or
        one where there is a GPU. 1 takes no other process.
    engine
        Where they run: "local", or a "ray" or "dask" cluster that sees --out (docs/reproduce.md).
    resume
        Keep what is finished and go on with the rest: the same command, with this flag.
    overwrite
        Replace the comparison in an existing directory.
    report
        Write report.html, in the end: the first model, beside all others and all seeds.
    """
    from samsvae.cli.tables import comparison_tables
    from samsvae.experiments.compare import comparison, results_of, table_of
    from samsvae.experiments.laboratory import Laboratory, Work, check
    from samsvae.experiments.report_of_comparison import report_comparison
    from samsvae.experiments.run import read_screen
    from samsvae.storage.tables import write_csv

    laboratory = Laboratory(out)
    laboratory.check_new(overwrite=overwrite, resume=resume)
    experiment = comparison(
        models=models,
        baselines=baselines,
        seeds=seeds,
        scale=scale,
        scoring=ScoreSettings(basal=basal),
        options=settings,
        assignments=assignments or (),
        config=config,
    )
    first = experiment.variants[0].settings
    screen = read_screen(data, first)
    say(repr(screen))
    check(experiment, screen)
    work = Work(laboratory, experiment)
    with laboratory.opened(experiment, screen, resume=resume):
        made = work.made(engine=engine, n_jobs=jobs, progress=first["progress"], say=say)
        results = results_of(made.scores, experiment.baselines) if made.scores else None
        if results is not None:
            write_csv(laboratory / "results.csv", results)
            write_csv(laboratory / "table.csv", table_of(results))
            for table in comparison_tables(table_of(results), console.width):
                console.print(table)
            say(f"every metric, per condition, is in {out / 'results.csv'}")
        if report and made.fits and results is not None:
            path = report_comparison(
                laboratory,
                list(made.fits.values()),
                screen,
                results,
                progress=first["progress"],
            )
            say(f"the report is {path}: open it in a browser")
    work.raise_failures()
