"""samsvae discoveries."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from samsvae.cli.console import console, say, written
from samsvae.cli.options import NOTHING, given
from samsvae.settings.by_name import Settings
from samsvae.settings.screen import ScreenSettings
from samsvae.types import Scale

ScreenOptions = given(Settings(ScreenSettings), show_default=False)


def discoveries(
    run: Path,
    data: Path,
    /,
    *conditions: str,
    out: Path | None = None,
    by: Literal["condition", "sgrna"] = "condition",
    cells: Literal["all", "responders"] = "all",
    below: float = 1.0,
    scale: Scale = "log",
    n_particles: int = 1000,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    settings: ScreenOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Tell which genes each condition changes, at what error rate.

    The model and the cells together: see docs/discoveries.md. Prints how many discoveries each
    condition has and the surest of them; --out writes the table.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    data
        The screen that it was trained on; read with the keys and the split of the run.
    conditions
        Such as KLF1, or "KLF1+CEBPA"; without any, all of the training cells.
    out
        File to write, one row per condition and gene: .csv, .parquet, or .h5ad (conditions x genes,
        a layer per number, as samsvae.export.as_anndata makes it).
    by
        "condition", or "sgrna": a row for each sgRNA of a condition, by its own cells alone.
    cells
        "all", or "responders": the effect on the cells in which a condition acts, each counting as
        much as that is probable; for a model that was trained with --response learned.
    below
        Leave out rows with a larger q_value, such as 0.05.
    scale
        "log", "normalized" or "mean".
    n_particles
        Of the model's effects.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.cli.tables import discovery_table
    from samsvae.errors import check_range
    from samsvae.evaluation.discoveries import discoveries as found
    from samsvae.experiments.run import Run
    from samsvae.storage.tables import check_writable

    check_range("below", below, low=0, high=1)
    if out is not None:
        check_writable(out, overwrite=overwrite, h5ad=True)
    directory = Run(run)
    model = directory.model(device)
    screen = directory.screen(data, settings)
    table = found(
        model,
        screen,
        list(conditions) or None,
        by=by,
        cells=cells,
        scale=scale,
        n_particles=n_particles,
        seed=seed,
        progress=progress,
    )
    console.print(discovery_table(table))
    kept = table[table["q_value"] <= below]
    if out is not None:
        say(f"{written(out, [kept]):,} of {len(table):,} rows written to {out}")
