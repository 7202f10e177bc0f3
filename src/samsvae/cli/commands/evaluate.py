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
    progress: bool = True,
    keys: KeyOptions = NOTHING,  # type: ignore[valid-type]
    particles: ScoreOptions = NOTHING,  # type: ignore[valid-type]
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
    from rich.table import Table

    from samsvae.cli.tables import comparison_tables
    from samsvae.evaluation.evaluate import beside_baselines
    from samsvae.evaluation.score import score
    from samsvae.experiments.compare import table_of
    from samsvae.experiments.run import Run

    folder = Run(run)
    model = folder.model(device)
    folder.metrics()  # what cannot be added to is told before there is anything to lose
    screen = folder.screen(data, dict(keys))
    scoring: dict[str, Any] = particles
    result = score(model, screen, split=split, progress=progress, **scoring)
    folder.write_score(result, split)
    table = Table("metric", "value", title=f"all {split} cells")
    for name, value in result.summary.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else f"{value}")
    console.print(table)
    if baselines and not len(screen.train):
        say("the data hold no training cells: there are no baselines to compare with")
    elif baselines:
        scores = beside_baselines(
            model,
            screen,
            split=split,
            scale=result.summary["scale"],
            progress=progress,
            **scoring,
        )
        folder.write_comparison(scores)
        for table in comparison_tables(table_of(scores), console.width):
            console.print(table)
    say(f"written to {run}")
