"""samsvae discoveries.

samsvae regulators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from samsvae.cli.console import NOTHING, console, given, say, write_rows, written
from samsvae.settings.fields import Settings
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
        much as that is probable; for a model that was trained with --learn-responders.
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
    from samsvae.analysis.discoveries import discoveries as found
    from samsvae.cli.tables import discovery_table
    from samsvae.errors import check_range
    from samsvae.runs.run import Run
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


RegulatorScreenOptions = given(Settings(ScreenSettings), show_default=False)


def regulators(
    run: Path,
    data: Path,
    /,
    *genes: str,
    out: Path | None = None,
    below: float = 1.0,
    scale: Scale = "log",
    n_particles: int = 1000,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    settings: RegulatorScreenOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Tell which conditions change a gene, by local false sign rate.

    As samsvae discoveries, looked at gene by gene. Prints the surest; --out writes the table.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    data
        The screen that it was trained on; read with the keys and the split of the run.
    genes
        Their names.
    out
        File to write, one row per gene and condition: .csv, .parquet, or .h5ad
        (conditions x genes).
    below
        Leave out rows with a larger lfsr, such as 0.05.
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
    from samsvae.analysis.discoveries import discoveries
    from samsvae.analysis.discoveries import regulators as found
    from samsvae.cli.tables import regulator_table
    from samsvae.errors import InputError, check_range, unknown
    from samsvae.runs.run import Run
    from samsvae.storage.tables import check_writable

    if not genes:
        raise InputError("no gene is named: expected one or more, such as STAT1, behind the data")
    check_range("below", below, low=0, high=1)
    if out is not None:
        check_writable(out, overwrite=overwrite, h5ad=True)
    directory = Run(run)
    model = directory.model(device)
    known = model.registry.genes
    for gene in genes:
        if gene not in known:  # before minutes of work
            raise unknown("gene", gene, known)
    screen = directory.screen(data, settings)
    table = discoveries(
        model, screen, scale=scale, n_particles=n_particles, seed=seed, progress=progress
    )
    parts = [found(table, gene, lfsr=below) for gene in dict.fromkeys(genes)]
    for gene, rows in zip(dict.fromkeys(genes), parts, strict=True):
        console.print(regulator_table(rows, gene))
    if out is not None:
        write_rows(out, parts)
