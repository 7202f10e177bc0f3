"""The command line: samsvae demo | train | evaluate | effects | simulate | compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from samsvae import demo as demonstration
from samsvae._version import __version__
from samsvae.compare import (
    COMPARED,
    Comparison,
    Plan,
    table_of,
)
from samsvae.data.screen import Screen
from samsvae.estimator import Estimator
from samsvae.estimators import ESTIMATORS
from samsvae.files import check_new_file, write_text
from samsvae.options import Options
from samsvae.printed import comparison_tables, effect_table, tidy
from samsvae.run import KEYS, SETTINGS, Run, gathered, read_screen, write_h5ad
from samsvae.scoring.evaluate import beside_baselines
from samsvae.scoring.score import score
from samsvae.train.settings import TrainSettings
from samsvae.types import Scale

app = App(
    name="samsvae",
    version=__version__,
    help="Train SAMS-VAE, or a model of its family, on a Perturb-seq screen, score it, and ask it "
    "what perturbations do. "
    "Any command takes --debug, which shows the traceback of an error.",
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
console = Console(markup=False)  # a name may hold brackets

EFFECTS = Options(Estimator.effects)
SIMULATION = Options(Estimator.simulate, without=("cells",))
SCORE = Options(score, without=("split", "progress"))

Several = Annotated[list[str] | None, Parameter(name="--set", negative=())]


@app.command
@SETTINGS.taken_by
def train(
    data: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    assignments: Several = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> None:
    """Train a model on a screen and save it in a run directory.

    Every setting is an option, a key of the TOML file, or a name for --set; some are of certain
    models only. Without --split-key the cells are split 64/16/20 at random by the seed, and the
    split is saved.

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
    """
    run = Run(out)
    kind, chosen = gathered(settings, assignments=assignments or (), config=config)
    for one, other in (("max_steps", "max_epochs"), ("max_epochs", "max_steps")):
        if one in settings and other not in settings:  # an option wins over its rival in a file
            chosen[other] = None
    run.check_new(overwrite=overwrite, resume=resume)
    training = SETTINGS.of(TrainSettings, chosen)
    TrainSettings(**training)  # a value out of range is told before the data are read
    screen = read_screen(data, chosen)
    _say(repr(screen))
    model = kind(screen, **SETTINGS.of(kind, chosen))
    model.check_training(**training)  # nor is a run replaced by one that cannot be trained
    run.start(chosen, screen, resume=resume)
    model.train(**training, checkpoint=run.checkpoint, resume=resume)
    run.finish(model)
    best = model.history["valid_elbo"].max()  # nan without validation cells
    told = "" if np.isnan(best) else f"best validation ELBO {best:.3f} nats per cell; "
    _say(f"{told}the model is in {out}")


@app.command
@SCORE.taken_by
@KEYS.taken_by
def evaluate(
    run: Path,
    data: Path,
    /,
    *,
    split: str = "test",
    baselines: bool = True,
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> None:
    """Score a run on held-out cells: likelihood, and effects against the data.

    Prints its scores, and those of simple baselines and a technical duplicate beside it, and writes
    metrics.json, per_condition.csv, effects.h5ad and scores.csv (every metric and condition) into
    the run. The columns of the data are named as in the run; options name them otherwise.

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
    progress
        Show progress bars.
    """
    folder = Run(run)
    model = folder.model(device)
    screen = folder.screen(data, KEYS.of(Screen.from_anndata, settings))
    particles = SCORE.of(score, settings)
    result = score(model, screen, split=split, progress=progress, **particles)
    folder.write_score(result, split)
    table = Table("metric", "value", title=f"{split} cells")
    for name, value in result.summary.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else f"{value}")
    console.print(table)
    if baselines and not len(screen.train):
        _say("the data hold no training cells: there are no baselines to compare with")
    elif baselines:
        scores = beside_baselines(
            model,
            screen,
            split=split,
            scale=result.summary["scale"],
            progress=progress,
            **particles,
        )
        folder.write_comparison(scores)
        for table in comparison_tables(table_of(scores), console.width):
            console.print(table)
    _say(f"written to {run}")


@app.command
@EFFECTS.taken_by
def effects(
    run: Path,
    /,
    *conditions: str,
    out: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    **settings: Any,
) -> None:
    """Tell what conditions do to every gene, and how sure the model is.

    Prints the genes that change most, or writes all of them.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    conditions
        Such as KLF1, or "KLF1+CEBPA", seen in training or not; without any, all of the training
        cells.
    out
        File to write: .csv (one row per condition and gene) or .h5ad (conditions x genes).
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    if out is not None:
        check_new_file(out, (".csv", ".h5ad"), overwrite=overwrite)
    model = Run(run).model(device)
    adata = model.effects(list(conditions) or None, **settings)
    if out is not None and out.suffix == ".h5ad":
        write_h5ad(out, adata)
    elif out is not None:
        write_text(out, tidy(adata).to_csv(index=False))
    else:
        for name in adata.obs_names:
            console.print(effect_table(adata[name]))
        return
    _say(f"written to {out}")


@app.command
@SIMULATION.taken_by
def simulate(
    run: Path,
    /,
    *conditions: str,
    out: Path,
    cells: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    **settings: Any,
) -> None:
    """Draw counts of cells under conditions.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    conditions
        Such as KLF1, or "KLF1+CEBPA".
    out
        File to write, .h5ad.
    cells
        A screen (h5ad): what its very cells would have shown under the conditions.
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    check_new_file(out, (".h5ad",), overwrite=overwrite)
    folder = Run(run)
    model = folder.model(device)
    screen = None if cells is None else folder.screen(cells, {})
    adata = model.simulate(list(conditions), cells=screen, **settings)
    write_h5ad(out, adata)
    _say(f"{adata.n_obs:,} cells written to {out}")


@app.command
@COMPARED.taken_by
def compare(
    data: Path,
    /,
    *,
    out: Path,
    models: str = ",".join(model.name for model in ESTIMATORS),
    baselines: str = "all",
    seeds: int = 5,
    scale: Scale = "log",
    basal: Literal["prior", "control"] = "prior",
    config: Path | None = None,
    assignments: Several = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> None:
    """Train models and score them, with baselines and a technical duplicate, on one split.

    Prints the pooled scores and writes results.csv (every metric, per condition, predictor and
    seed) and table.csv. docs/evaluation.md says what the metrics tell. An interrupted comparison
    goes on with the same command and --resume. Settings are those of train, each given to the
    models that have it.

    Parameters
    ----------
    data
        The screen, an h5ad file.
    out
        Directory to make: a run per model and seed, and the results.
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
    resume
        Keep what is finished and go on with the rest: the same command, with this flag.
    overwrite
        Replace the comparison in an existing directory.
    """
    Run(out).check_new(overwrite=overwrite, resume=resume)
    plan = Plan.of(
        models=models,
        baselines=baselines,
        seeds=seeds,
        settings=settings,
        assignments=assignments or (),
        config=config,
    )
    screen = read_screen(data, plan.settings)
    _say(repr(screen))
    plan.check(screen)
    comparison, scoring = Comparison(out), {"scale": scale, "basal": basal}
    asked = {"models": models, "baselines": baselines, "seeds": seeds, "data": screen.digest}
    comparison.start({**asked, **scoring}, resume=resume)
    results = comparison.results(screen, plan, resume=resume, say=_say, **scoring)
    for table in comparison_tables(table_of(results), console.width):
        console.print(table)
    _say(f"every metric, per condition, is in {out / 'results.csv'}")


@app.command
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
    run = Run(out)
    run.check_new(overwrite=overwrite, resume=False)
    demonstration.demo(run, seed=seed, progress=progress, say=_say)


def _say(text: str) -> None:
    console.print(text, highlight=False)
