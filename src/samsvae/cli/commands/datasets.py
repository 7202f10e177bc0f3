"""samsvae datasets fetch | stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from samsvae.cli.console import say

datasets = App(name="datasets", help="Published screens: download them, or simulate stand-ins.")


@datasets.command
def fetch(name: Literal["replogle", "norman"], /, *, progress: bool = True) -> None:
    """Download a published file once, and print where it lies.

    It is kept in the user's cache, or in SAMSVAE_DATA. A download that was cut goes on with the
    same command. Its SHA-256 is checked, or recorded when it first comes.

    Parameters
    ----------
    name
        Which.
    progress
        Show a progress bar.
    """
    from samsvae.experiments.download import CATALOG
    from samsvae.experiments.download import fetch as fetched

    say(f"{name}: {CATALOG[name].source}")
    say(str(fetched(name, progress=progress)))


@datasets.command(name="stand-in")
def stand_in(
    name: Literal["replogle", "norman"],
    /,
    *,
    out: Path,
    scale: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Simulate a screen of the shape and raw layout of a published one, with invented names.

    Beside it lies its annotation (pathways, or kinds of interaction), as NAME.annotation.json.

    Parameters
    ----------
    name
        Which.
    out
        The h5ad file to write.
    scale
        Share of the perturbations, with as many cells each; genes shrink by its square root.
    seed
        Same seed, same screen.
    overwrite
        Replace an existing file.
    """
    from samsvae.experiments.standin import stand_in as simulated
    from samsvae.storage.files import check_new_file
    from samsvae.storage.h5ad import write_h5ad
    from samsvae.storage.records import write_json

    check_new_file(out, [".h5ad"], overwrite=overwrite)
    found = simulated(name, scale=scale, seed=seed)
    write_h5ad(out, found.adata)
    write_json(out.with_suffix(".annotation.json"), found.annotation)
    n_cells, n_genes = found.adata.shape
    say(f"{out}: {n_cells:,} cells x {n_genes:,} genes, laid out like {name}'s")
