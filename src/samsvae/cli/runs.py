"""Runs: train, demo, evaluate, report, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from samsvae.cli.console import (
    NOTHING,
    Assignments,
    ConfigPath,
    DataPath,
    FilePath,
    Keys,
    Report,
    RunPath,
    console,
    given,
    opened,
    say,
    say_cautions,
    until_the_end,
)
from samsvae.errors import listed
from samsvae.ops.device import rank
from samsvae.settings import questions
from samsvae.settings.experiment import COMPARED, RUN, gathered
from samsvae.settings.fields import Settings, settings_of
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.train import TrainPlan
from samsvae.types import Scale

RunOptions = given(RUN)
ResumeOptions = given(Settings(questions.ResumeSettings))


def train(
    data: FilePath,
    /,
    *,
    out: Path,
    config: ConfigPath = None,
    assignments: Assignments = None,
    report: Report = True,
    output: ResumeOptions = NOTHING,  # type: ignore[valid-type]
    settings: RunOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Train a model on a screen and save it in a run directory.

    Each setting is an option, a key of the TOML file, or a name for --set; some apply to certain
    models only. Without --split-key the cells of each condition are split 64/16/20 at random by the
    seed, and the split is saved.

    Parameters
    ----------
    out
        Run directory to write.
    """
    from samsvae.estimators.models import estimator
    from samsvae.runs.reporting import report_run
    from samsvae.runs.run import Run, read_screen
    from samsvae.train.validator import PRECISE

    run, existing = Run(out), questions.ResumeSettings.among(output)
    options: dict[str, Any] = settings
    chosen = gathered(options, assignments=assignments or (), config=config)
    for one, other in (("max_steps", "max_epochs"), ("max_epochs", "max_steps")):
        if one in options and other not in options:  # an option overrides its rival in a file
            chosen[other] = None
    is_first = rank() == 0  # of processes that train together only the first writes and prints
    if is_first:
        run.check_new(overwrite=existing.overwrite, resume=existing.resume)
    training = settings_of(TrainPlan, chosen)
    TrainPlan(**training)  # values out of range are reported before the data are read
    screen = read_screen(data, chosen)
    if is_first:
        say(repr(screen))
    kind = estimator(chosen["model"])
    model = kind(screen, **settings_of(kind, chosen))
    model.check_training(**training)  # before a run is replaced by one that cannot be trained
    if not is_first:
        model.train(**training, resume=existing.resume)
        return
    with run.made(resume=existing.resume):
        run.start(chosen, screen, resume=existing.resume)
        run.train(model, chosen, resume=existing.resume)
        if report:
            path = report_run(run, model, screen, progress=chosen["progress"])
    best = model.history[model.history["is_best"]].tail(1)  # no row without validation cells
    summary = ""
    for row in best.itertuples():
        limit = ", with the maximum number of draws" if row.valid_elbo_mc_se > PRECISE else ""
        error = f"mc_se {row.valid_elbo_mc_se:.3f}{limit}"
        summary = f"best validation ELBO {row.valid_elbo:.3f} ({error}) nats per cell; "
    say(f"{summary}the model is in {out}")
    if report:
        _say_report(path)
    say_cautions(model, screen)


def _say_report(path: Path) -> None:
    say(f"the report is {path}: open it in a browser")


DemoOptions = given(
    Settings(questions.SeedSettings, questions.ProgressSettings, questions.OutputSettings)
)


def demo(
    *,
    out: Path = Path("runs/demo"),
    settings: DemoOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Simulate a screen with known true effects, train on it, and compare the model with the truth.

    Parameters
    ----------
    out
        Run directory to write.
    """
    from samsvae.runs.demo import demonstrate
    from samsvae.runs.reporting import screen_of
    from samsvae.runs.run import Run

    run = Run(out)
    run.check_new(overwrite=questions.OutputSettings.among(settings).overwrite, resume=False)
    seed = questions.SeedSettings.among(settings).seed
    demonstrate(
        run, seed=seed, progress=questions.ProgressSettings.among(settings).progress, say=say
    )
    say_cautions(run.model(), screen_of(run, None), run.scores())


EvaluationOptions = given(Settings(questions.ScoreSettings, questions.DeviceSettings))


def evaluate(
    run: RunPath,
    data: DataPath,
    /,
    *,
    split: str = "test",
    baselines: bool = True,
    report: Report = True,
    settings: EvaluationOptions = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """Score a run on held-out cells: likelihood, and effects against the data.

    Prints its scores next to those of simple baselines and a technical replicate, and writes
    scores.csv (all metrics and conditions), metrics.json (the run's own, over all conditions) and
    effects.h5ad into the run. Conditions of the test cells that are not in training are scored
    separately, as "unseen".

    Parameters
    ----------
    split
        Whose cells are scored: "train", "valid" or "test".
    baselines
        Score baselines and a technical replicate, too: the data must contain training cells.
    report
        Update report.html with these scores, if the data contain the training cells.
    """
    from samsvae.cli.tables import comparison_tables, summary_table
    from samsvae.runs.compare import table_of
    from samsvae.runs.jobs import score
    from samsvae.runs.reporting import report_run
    from samsvae.runs.run import Run

    folder = Run(run)
    until_the_end(folder.of_one_model())
    model, screen = opened(run, settings, data, keys)
    folder.metrics()  # damaged scores are reported before minutes of work
    folder.scores()
    if baselines and not len(screen.train):
        say("the data contain no training cells: there are no baselines to compare with")
        baselines = False
    scoring = questions.ScoreSettings.among(settings)
    result = score(model, screen, scoring, split=split, baselines=baselines)
    folder.write_scores(result, model.name)
    console.print(summary_table(result.summary(model.name), model.name))
    if baselines:
        for table in comparison_tables(table_of(result.scores), console.width):
            console.print(table)
    hidden = result.scores.attrs["uninformative_coverage"]
    if hidden:
        say(
            f"coverage is uninformative ({listed(f'{name}: {of} cells' for name, of in hidden)}): "
            "intervals of no width cover as many effects; if the variance ratio is 1, intervals "
            "are as wide as they should be"
        )
    say(f"written to {run}")
    if report and len(screen.train):  # the report shows the cells that the model was trained on
        _say_report(report_run(folder, model, screen, progress=scoring.progress))
    say_cautions(model, screen, result.scores)


def methods(run: RunPath, /) -> None:
    """Print a paragraph on a run for the Methods section of a paper, with its references."""
    from samsvae.runs.methods import methods_text

    say(methods_text(run))


ReportOptions = given(Settings(questions.ReportSettings))


def report(
    run: RunPath,
    data: Path | None = None,
    /,
    *conditions: str,
    settings: ReportOptions = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """Write the report of a run: one HTML file that a browser opens from disk.

    Data, training, evaluation (if the run has been evaluated), cautions, mechanisms, discoveries,
    conditions, and combinations; complete tables in the folder `report`. See docs/report.md.

    Parameters
    ----------
    data
        The screen that the run was trained on; read with the keys and the split of the run. By
        default the screen.h5ad in the run; without one the report shows the model only.
    conditions
        Up to 500 in addition to those of the data, such as combinations that were not measured.
    """
    from samsvae.runs.reporting import report_run, screen_of
    from samsvae.runs.run import Run

    folder = Run(run)
    until_the_end(folder.of_one_model())
    model, _ = opened(run, settings)
    screen = screen_of(folder, data, keys)
    chosen = asdict(questions.ReportSettings.among(settings))
    del chosen["device"]
    _say_report(report_run(folder, model, screen, conditions, **chosen))
    say_cautions(model, screen)


ComparedOptions = given(COMPARED)
JobOptions = given(Settings(questions.JobSettings))


def compare(
    data: FilePath,
    /,
    *,
    out: Path,
    models: str = ",".join(MODEL_SETTINGS),
    baselines: str = "all",
    seeds: int = 5,
    scale: Scale = "log",
    basal: Literal["prior", "control"] = "prior",
    config: ConfigPath = None,
    assignments: Assignments = None,
    report: Report = True,
    work: JobOptions = NOTHING,  # type: ignore[valid-type]
    settings: ComparedOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Train models and score them, with baselines and a technical replicate, on one split.

    Prints the pooled scores and writes results.csv (all metrics, by condition, predictor and seed)
    and table.csv; docs/evaluation.md explains the metrics. If a model fails, the others go on, and
    the failure is reported at the end. Settings are those of train, each passed to the models that
    have it.

    Parameters
    ----------
    out
        Directory to write: runs, scores and results.
    models
        Names joined by commas.
    baselines
        Names joined by commas, "all" or "none".
    seeds
        Number of seeds of each model: --seed and those that follow it.
    scale
        Scale on which effects are scored: "log", "normalized" or "mean".
    basal
        Basal states of the models' effects: from their "prior" or of "control" cells.
    report
        Write report.html at the end: the first model, next to all others and all seeds.
    """
    from samsvae.cli.tables import comparison_tables
    from samsvae.runs.compare import comparison, report_comparison, results_of, table_of
    from samsvae.runs.run import ExperimentDirectory, digest_of, read_screen
    from samsvae.runs.runner import ExperimentRunner, check_experiment
    from samsvae.storage.tables import write_csv

    jobs, directory = questions.JobSettings.among(work), ExperimentDirectory(out)
    directory.check_new(overwrite=jobs.overwrite, resume=jobs.resume)
    experiment = comparison(
        models=models,
        baselines=baselines,
        seeds=seeds,
        scale=scale,
        scoring=questions.ScoreSettings(basal=basal),
        options=settings,
        assignments=assignments or (),
        config=config,
    )
    first = experiment.variants[0].settings
    screen, progress = read_screen(data, first), first["progress"]
    say(repr(screen))
    check_experiment(experiment, screen)
    runner, source = ExperimentRunner(directory, experiment), {"screen": digest_of(screen)}
    with directory.opened(experiment, lambda: screen, resume=jobs.resume, source=source):
        done = runner.run(engine=jobs.engine, n_jobs=jobs.jobs, progress=progress, say=say)
        results = results_of(done.scores, experiment.baselines) if done.scores else None
        if results is not None:
            write_csv(directory / "results.csv", results)
            write_csv(directory / "table.csv", table_of(results))
            for table in comparison_tables(table_of(results), console.width):
                console.print(table)
            say(f"all metrics, by condition, are in {out / 'results.csv'}")
        if report and done.trained and results is not None:
            trained = done.trained
            _say_report(report_comparison(directory, trained, screen, results, progress=progress))
        if done.trained:
            say_cautions(done.trained[0].model(), screen)
    runner.raise_failures()
