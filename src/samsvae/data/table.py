"""What a screen is taken from: columns and matrices by name, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from anndata import AnnData


@dataclass(frozen=True, eq=False)
class Table:
    """Cells and genes by name, and what there is of them.

    Columns and matrices are read when they are asked for: the rest of a file is of no account.
    """

    cells: pd.Index
    genes: pd.Index
    columns: Collection[str]
    """Of the cells."""
    column: Callable[[str], pd.Series]
    """Gives a column by name."""
    layers: Mapping[str, Any]
    """Matrices, `cell gene`, by name: rows are taken by a slice."""
    x: Any
    """The main matrix; None: there is none."""

    @classmethod
    def of(cls, adata: AnnData) -> Table:
        """Take what an AnnData object holds."""
        return cls(
            adata.obs_names,
            adata.var_names,
            list(adata.obs.columns),
            adata.obs.__getitem__,
            adata.layers,
            adata.X,
        )
