"""Where the command line prints, and says what it wrote."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from samsvae.errors import shown

if TYPE_CHECKING:
    import pandas as pd

console = Console(markup=False, emoji=False)  # a name may hold brackets, or be like HLA:b:27


def say(text: str) -> None:
    """Print lines as they are, but for what would steer the terminal."""
    lines = (shown(line, most=1000) for line in text.split("\n"))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)  # commands can be copied


def write_rows(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables one after the other, and say how many rows they have."""
    say(f"{written(path, tables):,} rows written to {path}")


def written(path: Path, tables: Iterable[pd.DataFrame], *, obs: pd.DataFrame | None = None) -> int:
    """Write tables one after the other, and return how many rows they have.

    Parameters
    ----------
    path
        By its ending CSV, parquet, or AnnData (.h5ad), as `samsvae.export.as_anndata` makes it.
    tables
        Of the same columns.
    obs
        Of the rows of the AnnData, see there.
    """
    from samsvae.storage.tables import write_table  # pandas, which --help does without

    if path.suffix != ".h5ad":
        return write_table(path, tables)
    import pandas as pd

    from samsvae.evaluation.wide import as_anndata
    from samsvae.storage.h5ad import write_h5ad

    parts = list(tables)
    whole = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    write_h5ad(path, as_anndata(whole, obs=obs))
    return len(whole)
