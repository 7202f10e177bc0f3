"""samsvae demo."""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import say


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
    from samsvae.cli.demonstration import demonstrate
    from samsvae.experiments.run import Run

    run = Run(out)
    run.check_new(overwrite=overwrite, resume=False)
    demonstrate(run, seed=seed, progress=progress, say=say)
