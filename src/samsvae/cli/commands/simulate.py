"""samsvae simulate."""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import say
from samsvae.cli.options import NOTHING, given
from samsvae.settings.by_name import Settings
from samsvae.settings.effects import SimulationSettings

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
    from samsvae.experiments.run import Run
    from samsvae.storage.files import check_new_file
    from samsvae.storage.h5ad import write_h5ad

    check_new_file(out, (".h5ad",), overwrite=overwrite)
    folder = Run(run)
    model = folder.model(device)
    screen = None if cells is None else folder.screen(cells, {})
    adata = model.simulate(list(conditions), cells=screen, **settings)
    write_h5ad(out, adata)
    say(f"{adata.n_obs:,} cells written to {out}")
