"""Cells in a plane: of their basal states, or of their states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from samsvae.plotting.points import axis_names, plane_of
from samsvae.plotting.style import COLOURS, OTHER, axes_of, bare, short

_INK = 4e4
"""Area of all points together, in square points: fewer cells are drawn larger."""
_UNKNOWN = "not known"


def cell_map(
    points: pd.DataFrame,
    colour: pd.Series | None = None,
    *,
    n_coloured: int = 11,
    ax: Axes | None = None,
) -> Axes:
    """Draw cells in a plane, coloured by condition, batch, probability of response or the like.

    Basal states should look alike in all conditions: where they do not, they still know what the
    cells received.

    Parameters
    ----------
    points
        Cells x 2; the columns name the axes: as `samsvae.projection` returns them, of
        `adata.obsm["X_samsvae"]` (states) or of "X_samsvae_basal".
    colour
        By cell: numbers (drawn on a scale) or categories; its name is told. Cells that it lacks
        are grey.
    n_coloured
        Categories with a colour of their own, those of the most cells; the others are grey, too.
    ax
        Where to draw.

    Raises
    ------
    InputError
        If the points are not in a plane, or there are none.
    """
    x, y = plane_of(points, "cells")
    ax = axes_of(ax, (6.5, 5))
    size = float(np.clip(_INK / len(points), 1.5, 25))
    # In an order that has nothing to do with colours: no category covers the others.
    order = np.random.default_rng(0).permutation(len(points))
    look: dict[str, Any] = {"s": size, "lw": 0, "rasterized": True}
    if colour is None:
        ax.scatter(x[order], y[order], color=COLOURS[0], alpha=0.6, **look)
    elif is_numeric_dtype(colour) and not is_bool_dtype(colour):
        _by_number(ax, x[order], y[order], _of_cells(colour, points)[order].astype(float), look)
        figure, drawn = ax.get_figure(), ax.collections[-1]
        if figure is not None and drawn.get_array() is not None:
            figure.colorbar(drawn, ax=ax, label=str(colour.name or "value"))
    else:
        _by_name(ax, x[order], y[order], _of_cells(colour, points)[order], n_coloured, look)
        title = None if colour.name is None else str(colour.name)
        ax.legend(
            title=title,
            fontsize=8,
            title_fontsize=8,
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            markerscale=max(1.0, (25 / size) ** 0.5),
        )
    axis_names(ax, points, "cells")
    bare(ax)
    return ax


def _of_cells(colour: pd.Series, points: pd.DataFrame) -> np.ndarray:
    own = colour[~colour.index.duplicated()].reindex(points.index)
    return own.astype(object).to_numpy()


def _by_number(
    ax: Axes, x: np.ndarray, y: np.ndarray, value: np.ndarray, look: dict[str, Any]
) -> None:
    known = np.isfinite(value)
    if not known.all():
        label = f"{_UNKNOWN}: {(~known).sum():,}"
        ax.scatter(x[~known], y[~known], color=OTHER, label=label, **look)
        ax.legend(fontsize=8, loc="upper left", frameon=False)
    if known.any():
        ax.scatter(x[known], y[known], c=value[known], cmap="cividis", **look)


def _by_name(
    ax: Axes, x: np.ndarray, y: np.ndarray, value: np.ndarray, n_coloured: int, look: dict[str, Any]
) -> None:
    known = pd.notna(value)
    names = pd.Series(value[known]).astype(str)
    n_cells = names.value_counts()
    n_cells = n_cells.sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    own = dict(zip(n_cells.index[:n_coloured], COLOURS, strict=False))
    shade = np.full(len(value), OTHER, object)
    shade[known] = names.map(own).fillna(OTHER)
    grey = shade == OTHER
    ax.scatter(x[grey], y[grey], color=OTHER, **look)
    ax.scatter(x[~grey], y[~grey], c=list(shade[~grey]), **look)
    entries = [(f"{short(name)}: {n_cells[name]:,}", one) for name, one in own.items()]
    rest = n_cells.iloc[len(own) :]
    if len(rest):
        entries.append((f"{len(rest):,} others: {rest.sum():,}", OTHER))
    if not known.all():
        entries.append((f"{_UNKNOWN}: {(~known).sum():,}", OTHER))
    for label, one in entries:
        ax.scatter([], [], color=one, label=label, s=look["s"], lw=0)
