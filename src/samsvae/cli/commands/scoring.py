"""samsvae evaluate.

samsvae report.

samsvae compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from samsvae.cli.console import NOTHING, Assignments, console, given, say
from samsvae.settings.fields import Settings
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.questions import ScoreSettings
from samsvae.settings.run import COMPARED
from samsvae.settings.screen import ScreenSettings
from samsvae.types import Scale

KeyOptions = given(Settings(ScreenSettings), show_default=False)
ScoreOptions = given(Settings(ScoreSettings))


def evaluate(
    run: Path,
    data: Path,
    /,
    *,
    split: str = "test",
    baselines: bool = True,
    device: str = "auto",
    report: bool = True,
    keys: KeyOptions = NOTHING,  # type: ignore[valid-type]
    scoring: ScoreOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Score a run on held-out cells: likelihood, and effects against the data.

    Prints its scores, and those of simple baselines and a technical duplicate beside it, and writes
    scores.csv (every metric and condition), metrics.json (the run's own, over all conditions) and
    effects.h5ad into the run. Conditions of the test cells that are not in training stand apart,
    as "unseen". The columns of the data are named as in the run; options name them otherwise.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    data
        The screen, an h5ad file.
    split
        Whose cells are scored: "train", "valid" or "test".
    baselines
        Score baselines and a technical duplicate, too: the data must hold training cells.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    report
        Write report.html anew, with these scores; where the data hold the training cells.
    """
    from samsvae.cli.tables import comparison_tables, summary_table
    from samsvae.runs.compare import table_of
    from samsvae.runs.jobs import score
    from samsvae.runs.reporting import report_run
    from samsvae.runs.run import Run

    folder = Run(run)
    model = folder.model(device)
    folder.check_scores()  # what cannot be added to is told before there is anything to lose
    screen = folder.screen(data, dict(keys))
    given_scoring: dict[str, Any] = scoring
    if baselines and not len(screen.train):
        say("the data hold no training cells: there are no baselines to compare with")
        baselines = False
    settings = ScoreSettings(**given_scoring)
    result = score(model, screen, settings, split=split, baselines=baselines)
    folder.write_scores(result, model.name)
    console.print(summary_table(result.summary(model.name), model.name))
    if baselines:
        for table in comparison_tables(table_of(result.scores), console.width):
            console.print(table)
    say(f"written to {run}")
    if report and len(screen.train):  # the report is of the cells that the model has learned from
        path = report_run(folder, model, screen, progress=settings.progress)
        say(f"the report is {path}: open it in a browser")


ScreenOptions = given(Settings(ScreenSettings), show_default=False)


def report(
    run: Path,
    data: Path | None = None,
    /,
    *conditions: str,
    n_particles: int = 2500,
    seed: int = 0,
    progress: bool = True,
    device: str = "auto",
    settings: ScreenOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Write the report of a run: one HTML file that a browser opens from disk.

    The data, how training went, the evaluation (if the run has been evaluated), reasons for doubt,
    mechanisms, discoveries, each condition, combinations; complete tables beside it, in `report`.
    See docs/report.md.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    data
        The screen that it was trained on; read with the keys and the split of the run. By default
        the screen.h5ad in the run; without one the report is of the model alone.
    conditions
        Up to 500 beside those of the data, such as combinations that were not measured.
    n_particles
        Of the model's effects.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.runs.reporting import report_run, screen_of
    from samsvae.runs.run import Run

    directory = Run(run)
    model = directory.model(device)
    screen = screen_of(directory, data, settings)
    asked = {"n_particles": n_particles, "seed": seed, "progress": progress}
    path = report_run(directory, model, screen, conditions, **asked)
    say(f"the report is {path}: open it in a browser")


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
    from samsvae.runs.compare import comparison, report_comparison, results_of, table_of
    from samsvae.runs.run import ExperimentDirectory, read_screen
    from samsvae.runs.runner import ExperimentRunner, check_experiment
    from samsvae.storage.tables import write_csv

    directory = ExperimentDirectory(out)
    directory.check_new(overwrite=overwrite, resume=resume)
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
    check_experiment(experiment, screen)
    runner = ExperimentRunner(directory, experiment)
    with directory.opened(experiment, screen, resume=resume):
        done = runner.run(engine=engine, n_jobs=jobs, progress=first["progress"], say=say)
        results = results_of(done.scores, experiment.baselines) if done.scores else None
        if results is not None:
            write_csv(directory / "results.csv", results)
            write_csv(directory / "table.csv", table_of(results))
            for table in comparison_tables(table_of(results), console.width):
                console.print(table)
            say(f"every metric, per condition, is in {out / 'results.csv'}")
        if report and done.trained and results is not None:
            path = report_comparison(
                directory, done.trained, screen, results, progress=first["progress"]
            )
            say(f"the report is {path}: open it in a browser")
    runner.raise_failures()
