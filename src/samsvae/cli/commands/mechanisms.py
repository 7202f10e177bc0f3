"""samsvae programs.

samsvae responders.
"""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import NOTHING, console, given, say, write_rows, written
from samsvae.settings.fields import Settings
from samsvae.settings.screen import ScreenSettings


def programs(
    run: Path,
    /,
    *,
    gene_sets: Path | None = None,
    out: Path | None = None,
    enrichment: Path | None = None,
    n_particles: int = 500,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    device: str = "auto",
) -> None:
    """Tell through which programs of genes perturbations act.

    Of each latent dimension in use: what moves it, and which genes it moves. Needs no data. Prints
    an overview; --out writes the loading of every gene.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    gene_sets
        A GMT file: which of its sets the programs are rich in.
    out
        File to write, one row per dimension and gene: .csv, .parquet, or .h5ad (dimensions x genes;
        what moves each is in obs).
    enrichment
        File to write, .csv or .parquet, one row per dimension and gene set; with --gene-sets.
    n_particles
        Basal states that loadings are means over.
    seed
        Same seed, same numbers.
    progress
        Show a progress bar.
    overwrite
        Replace existing files.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.analysis.gene_sets import enrichment as rich_sets
    from samsvae.cli.tables import program_table
    from samsvae.errors import InputError
    from samsvae.runs.run import Run
    from samsvae.storage.tables import check_writable

    if enrichment is not None and gene_sets is None:
        raise InputError("--enrichment is given without gene sets: expected --gene-sets too")
    for path, h5ad in ((out, True), (enrichment, False)):
        if path is not None:
            check_writable(path, overwrite=overwrite, h5ad=h5ad)
    model = Run(run).model(device)
    table = model.programs(n_particles=n_particles, seed=seed, progress=progress)
    mechanisms = model.mechanisms()
    if not len(table):
        say("no latent dimension is in use: no perturbation shifts one with probability above 1/2")
    else:
        console.print(program_table(table, mechanisms))
    if out is not None:
        say(f"{written(out, [table], obs=mechanisms):,} rows written to {out}")
    if gene_sets is not None and len(table):
        named = table.rename(columns={"dimension": "condition"})
        sets = rich_sets(named, gene_sets, score="loading")
        sets = sets.rename(columns={"condition": "dimension"})
        surest = sets[sets["q_rank"] < 0.05]
        say(f"{len(surest):,} of {len(sets):,} pairs of dimension and gene set at q_rank < 0.05")
        if enrichment is not None:
            write_rows(enrichment, [sets])


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

    For a model that was trained with --learn-responders; with --sgrna-key, sgRNA by sgRNA. Prints
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
    from samsvae.runs.run import Run
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
