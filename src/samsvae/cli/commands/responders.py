"""samsvae responders."""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import console, write_rows
from samsvae.cli.options import NOTHING, given
from samsvae.settings.by_name import Settings
from samsvae.settings.screen import ScreenSettings

ScreenOptions = given(Settings(ScreenSettings), show_default=False)


def responders(
    run: Path,
    data: Path,
    /,
    *,
    out: Path | None = None,
    rates: Path | None = None,
    n_particles: int = 25,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    settings: ScreenOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Tell in which cells perturbations act, and how often each sgRNA works.

    For a model that was trained with --response learned; with --sgrna-key, sgRNA by sgRNA. Prints
    the share of cells that respond; --out writes the table of cells.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    data
        The cells; read with the keys of the run.
    out
        File to write, one row per cell and perturbation that it received: .csv, .parquet, or .h5ad
        (cells x perturbations; of cells with one perturbation, its probability is in obs).
    rates
        File to write, .csv or .parquet, one row per perturbation and sgRNA.
    n_particles
        Draws per cell.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.
    overwrite
        Replace existing files.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.cli.tables import rate_table
    from samsvae.experiments.run import Run
    from samsvae.storage.tables import check_writable

    for path, h5ad in ((out, True), (rates, False)):
        if path is not None:
            check_writable(path, overwrite=overwrite, h5ad=h5ad)
    directory = Run(run)
    model = directory.model(device)
    screen = directory.screen(data, settings)
    found = model.responders(screen, n_particles=n_particles, seed=seed, progress=progress)
    console.print(rate_table(found.rates))
    for path, table in ((out, found.cells), (rates, found.rates)):
        if path is not None:
            write_rows(path, [table])
