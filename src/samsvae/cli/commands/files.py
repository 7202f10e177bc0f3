"""samsvae inspect.

samsvae datasets fetch | stand-in.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cyclopts import App

from samsvae.cli.console import say


def inspect(data: Path, /, *, modality: str | None = None, labels: str | None = None) -> None:
    """Tell what a file holds: matrices, columns, conditions, and the command that trains on it.

    Parameters
    ----------
    data
        A file of any kind that is read: .h5ad, .h5mu, .zarr, 10x Genomics' .h5 or folder.
    modality
        Which one, of a file with several.
    labels
        CSV or TSV file of further columns of the cells, their names in the first.
    """
    from samsvae.data.inspection import inspected
    from samsvae.storage.opening import opened

    with opened(data, modality=modality, labels=labels) as table:
        found = inspected(table)
    say(f"{data}: {found.n_cells:,} cells x {found.n_genes:,} genes")
    for name, kind in found.matrices.items():
        say(f"  {name}: {kind}")
    for role, column in found.columns.items():
        say(f"  {role}: column {column!r}")
    if found.convention is not None:
        say(f"  laid out like {found.convention}")
    if found.cells is not None:
        n = found.cells
        say(
            f"  {len(n):,} conditions: {n.iloc[0]:,} cells of {n.index[0]!r}, of the others "
            f"{n.iloc[1:].min():,} to {n.iloc[1:].max():,} (median {n.iloc[1:].median():,.0f})"
        )
        rare = n.iloc[1:].sort_values(kind="stable")[:5]
        say("  fewest cells: " + ", ".join(f"{name} {k:,}" for name, k in rare.items()))
    for remark in found.remarks:
        say(f"  note: {remark}")
    if found.cells is None:
        say("it cannot be read so: the note above says what to give")
        return
    given = {**found.settings, "modality": modality, "labels": labels}
    say(_command(data, {name: value for name, value in given.items() if value is not None}))


def _command(data: Path, settings: Mapping[str, Any]) -> str:
    """Return the command that trains on a file."""
    words = ["samsvae", "train", str(data), "--out", f"runs/{data.name.split('.')[0]}"]
    for name, value in settings.items():
        for one in value if isinstance(value, tuple) else (value,):
            words += [f"--{name.replace('_', '-')}", str(one)]
    return shlex.join(words)


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
    from samsvae.reproduce.download import CATALOG
    from samsvae.reproduce.download import fetch as fetched

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
    from samsvae.reproduce.standin import stand_in as simulated
    from samsvae.storage.files import check_new_file, write_json
    from samsvae.storage.tables import write_h5ad

    check_new_file(out, [".h5ad"], overwrite=overwrite)
    found = simulated(name, scale=scale, seed=seed)
    write_h5ad(out, found.adata)
    write_json(out.with_suffix(".annotation.json"), found.annotation)
    n_cells, n_genes = found.adata.shape
    say(f"{out}: {n_cells:,} cells x {n_genes:,} genes, laid out like {name}'s")
