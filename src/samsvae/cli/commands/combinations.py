"""samsvae combinations."""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import write_rows
from samsvae.cli.options import NOTHING, given
from samsvae.settings.by_name import Settings
from samsvae.settings.screen import ScreenSettings
from samsvae.types import Scale

ScreenOptions = given(Settings(ScreenSettings), show_default=False)


def combinations(
    run: Path,
    data: Path | None = None,
    /,
    *conditions: str,
    out: Path,
    scale: Scale = "log",
    n_particles: int = 500,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    settings: ScreenOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Write the effects of pairs, and how far they are from the sum of what each does alone.

    Written part by part: all pairs of hundreds of perturbations fit in memory.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    data
        A screen whose cells show what combinations do; read with the keys of the run.
    conditions
        Such as "KLF1+CEBPA"; without any, all pairs.
    out
        File to write, .csv or .parquet, one row per combination and gene.
    scale
        "log", "normalized" or "mean".
    n_particles
        Of the model's effects.
    seed
        Same seed, same numbers.
    progress
        Show a progress bar.
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.evaluation.combinations import combinations as tables
    from samsvae.experiments.run import Run
    from samsvae.storage.tables import check_writable

    check_writable(out, overwrite=overwrite)
    directory = Run(run)
    model = directory.model(device)
    found = tables(
        model,
        None if data is None else directory.screen(data, settings),
        list(conditions) or None,
        scale=scale,
        n_particles=n_particles,
        seed=seed,
        progress=progress,
    )
    write_rows(out, found)
