"""samsvae report."""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import say
from samsvae.cli.options import NOTHING, given
from samsvae.settings.by_name import Settings
from samsvae.settings.screen import ScreenSettings

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
    from samsvae.experiments.reporting import report_run, screen_of
    from samsvae.experiments.run import Run

    directory = Run(run)
    model = directory.model(device)
    screen = screen_of(directory, data, settings)
    asked = {"n_particles": n_particles, "seed": seed, "progress": progress}
    path = report_run(directory, model, screen, conditions, **asked)
    say(f"the report is {path}: open it in a browser")
