"""samsvae effects.

samsvae simulate.

samsvae combinations.
"""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import NOTHING, console, given, say, write_rows
from samsvae.settings.fields import Settings
from samsvae.settings.questions import EffectSettings, SimulationSettings
from samsvae.settings.screen import ScreenSettings
from samsvae.types import Scale

EffectOptions = given(Settings(EffectSettings))


def effects(
    run: Path,
    /,
    *conditions: str,
    out: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    settings: EffectOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Tell what conditions do to every gene, and how sure the model is.

    Prints the genes that change most, or writes all of them.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    conditions
        Such as KLF1, or "KLF1+CEBPA", seen in training or not; without any, all of the training
        cells. "@" gives a dose: "drugA@0.5".
    out
        File to write: .csv (one row per condition and gene) or .h5ad (conditions x genes).
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.cli.tables import effect_table, tidy
    from samsvae.runs.run import Run
    from samsvae.storage.files import check_new_file
    from samsvae.storage.tables import write_csv, write_h5ad

    if out is not None:
        check_new_file(out, (".csv", ".h5ad"), overwrite=overwrite)
    model = Run(run).model(device)
    adata = model.effects(list(conditions) or None, **settings)
    if out is not None and out.suffix == ".h5ad":
        write_h5ad(out, adata)
    elif out is not None:
        write_csv(out, tidy(adata))
    else:
        for name in adata.obs_names:
            console.print(effect_table(adata[name]))
        return
    say(f"written to {out}")


SimulationOptions = given(Settings(SimulationSettings))


def simulate(
    run: Path,
    /,
    *conditions: str,
    out: Path,
    cells: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    settings: SimulationOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Draw counts of cells under conditions.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    conditions
        Such as KLF1, or "KLF1+CEBPA".
    out
        File to write, .h5ad.
    cells
        A screen (h5ad): what its very cells would have shown under the conditions.
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.runs.run import Run
    from samsvae.storage.files import check_new_file
    from samsvae.storage.tables import write_h5ad

    check_new_file(out, (".h5ad",), overwrite=overwrite)
    folder = Run(run)
    model = folder.model(device)
    screen = None if cells is None else folder.screen(cells, {})
    adata = model.simulate(list(conditions), cells=screen, **settings)
    write_h5ad(out, adata)
    say(f"{adata.n_obs:,} cells written to {out}")


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
    from samsvae.analysis.combinations import combinations as tables
    from samsvae.runs.run import Run
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
