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
    resume: bool = False,
    overwrite: bool = False,
    settings: ComparedOptions = NOTHING,  # type: ignore[valid-type]
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
    from samsvae.cli.tables import comparison_tables
    from samsvae.experiments.compare import Comparison, Plan, table_of
    from samsvae.experiments.run import read_screen

    comparison = Comparison(out)
    comparison.check_new(overwrite=overwrite, resume=resume)
    plan = Plan.of(
        models=models,
        baselines=baselines,
        seeds=seeds,
        options=settings,
        assignments=assignments or (),
        config=config,
    )
    screen = read_screen(data, plan.settings)
    say(repr(screen))
    plan.check(screen)
    asked = {"models": models, "baselines": baselines, "seeds": seeds, "data": screen.digest}
    with comparison.made(resume=resume):
        comparison.start({**asked, "scale": scale, "basal": basal}, resume=resume)
        scoring = ScoreSettings(basal=basal, progress=plan.settings["progress"])
        results = comparison.results(screen, plan, scoring, scale=scale, resume=resume, say=say)
    for table in comparison_tables(table_of(results), console.width):
        console.print(table)
    say(f"every metric, per condition, is in {out / 'results.csv'}")
