"""What a screen is taken from: columns and matrices by name, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from anndata import AnnData

from samsvae.errors import InputError


@dataclass(frozen=True, eq=False)
class Frame:
    """Names, and columns that are read when they are asked for: the rest is of no account."""

    names: pd.Index
    columns: Collection[str]
    read: Callable[[str], pd.Series]
    """Gives a column by name."""

    @classmethod
    def of(cls, frame: pd.DataFrame, what: str) -> Frame:
        """Take a data frame, refusing columns that have one name."""
        twice = frame.columns[frame.columns.duplicated()].unique()

        def read(key: str) -> pd.Series:
            if key in twice:
                raise InputError(f"{what} has several columns {key!r}: remove all but one")
            return frame[key]

        return cls(frame.index, [str(name) for name in frame.columns], read)

    def beside(self, other: Frame) -> Frame:
        """Return these columns, and those of another frame of the same rows that are not here."""
        more = [name for name in other.columns if name not in self.columns]
        return Frame(
            self.names,
            [*self.columns, *more],
            lambda key: (other if key in more else self).read(key),
        )


@dataclass(frozen=True, eq=False)
class Table:
    """Cells and genes by name, and what there is of them."""

    cells: Frame
    genes: Frame
    layers: Mapping[str, Any]
    """Matrices, `cell gene`, by name: rows are taken by a slice."""
    x: Any
    """The main matrix; None: there is none."""
    raw: Callable[[], Table | None] = lambda: None
    """Gives the matrix of `.raw` and its genes, in the place of `x`; None: there is none."""

    @classmethod
    def of(cls, adata: AnnData) -> Table:
        """Take what an AnnData object holds."""
        cells = Frame.of(adata.obs, "adata.obs")

        def raw() -> Table | None:
            kept = adata.raw
            return None if kept is None else cls(cells, Frame.of(kept.var, "raw.var"), {}, kept.X)

        return cls(cells, Frame.of(adata.var, "adata.var"), adata.layers, adata.X, raw)

    def with_columns(self, more: Frame) -> Table:
        """Return the table with further columns of the cells."""
        return replace(self, cells=self.cells.beside(more))
