"""samsvae evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samsvae.cli.console import console, say
from samsvae.cli.options import NOTHING, given
from samsvae.settings.by_name import Settings
from samsvae.settings.evaluation import ScoreSettings
from samsvae.settings.screen import ScreenSettings

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
    from samsvae.experiments.compare import table_of
    from samsvae.experiments.reporting import report_run
    from samsvae.experiments.run import Run
    from samsvae.experiments.scoring import score

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
