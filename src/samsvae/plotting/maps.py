"""Perturbations in a plane, such as UMAP gives (the paper's Figure 6).

Cells in a plane: of their basal states, or of their states.

Perturbations in the plane of two genes, as a model and as the data see them (Figure 3).
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from samsvae.errors import InputError
from samsvae.plotting.style import (
    COLOURS,
    MARKERS,
    OTHER,
    axes_of,
    bare,
    colours,
    known_groups,
    name_points,
    short,
)


def shift_map(
    points: pd.DataFrame,
    groups: pd.Series | None = None,
    *,
    n_named: int = 25,
    ax: Axes | None = None,
) -> Axes:
    """Draw perturbations in a plane, coloured by pathway.

    Parameters
    ----------
    points
        Perturbations x 2; the columns name the axes: as `samsvae.projection` returns them.
    groups
        Pathway by perturbation.
    n_named
        Perturbations that are named where there is room: those furthest out.
    ax
        Where to draw.

    Raises
    ------
    InputError
        If the points are not in a plane, or there are none.
    """
    x, y = plane_of(points, "perturbations")
    ax = axes_of(ax, (7.5, 5))
    known = known_groups(groups, points.index)
    own = known.reindex(points.index)
    label = "other perturbations" if len(known) else None
    other = own.isna().to_numpy()
    if other.any():
        ax.scatter(x[other], y[other], s=14, color=OTHER, label=label)
    for i, (name, colour) in enumerate(colours(sorted(known.unique())).items()):
        chosen = (own == name).to_numpy()
        ax.scatter(
            x[chosen],
            y[chosen],
            s=34,
            color=colour,
            marker=MARKERS[i % len(MARKERS)],
            label=short(name),
            edgecolor="white",
            linewidth=0.4,
        )
    axis_names(ax, points, "perturbations")
    if len(known):
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    bare(ax)
    out = np.hypot(x - np.nanmedian(x), y - np.nanmedian(y))
    furthest = np.argsort(np.where(np.isnan(out), np.inf, -out), kind="stable")[:n_named]
    furthest = furthest[np.isfinite(out[furthest])]
    name_points(ax, x[furthest], y[furthest], list(points.index[furthest]))
    return ax


def plane_of(points: pd.DataFrame, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of points.

    Raises
    ------
    InputError
        If they have not two, or none has a place.
    """
    if points.shape[1] != 2:
        raise InputError(
            f"the points have {points.shape[1]} coordinates: expected two, as samsvae.projection "
            "returns them"
        )
    x, y = points.to_numpy(float).T
    if not np.isfinite(x + y).any():
        raise InputError(f"none of {len(points)} {what} has a place: there is nothing to draw")
    return x, y


def axis_names(ax: Axes, points: pd.DataFrame, what: str) -> None:
    """Name the axes, and tell how many points have no place."""
    lost = int(points.isna().any(axis=1).sum())
    told = f"\n{lost:,} {what} without a place" if lost else ""
    ax.set(xlabel=f"{points.columns[0]}{told}", ylabel=str(points.columns[1]))


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


def gene_projection(
    ate: pd.DataFrame,
    de: pd.DataFrame,
    groups: pd.Series | None = None,
    genes: tuple[str, str] | None = None,
) -> Figure:
    """Draw each perturbation at its effects on two genes: DE of held-out cells, and the ATE.

    Parameters
    ----------
    ate, de
        Conditions x genes, on one scale.
    groups
        Pathway by condition, to be coloured.
    genes
        Which; by default the one whose DE varies most, and the next that correlates least with it.
    """
    rows = ate.index.intersection(de.index)
    first, second = genes or _telling(de.loc[rows])
    known = pd.Series(dtype=str) if groups is None else groups[groups.index.isin(rows)]
    colour = colours(sorted(known.unique()))
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4.6), sharex=True, sharey=True, layout="constrained"
    )
    titles = ("DE of test cells", "ATE of the model")
    for one, table, title in zip(axes, (de, ate), titles, strict=True):
        others = rows.difference(known.index)
        label = "other perturbations" if colour and len(others) else None
        one.scatter(*_places(table, others, first, second), s=14, color=OTHER, label=label)
        for i, (name, shade) in enumerate(colour.items()):
            members = known.index[known == name]
            place = _places(table, members, first, second)
            one.scatter(
                *place,
                s=30,
                color=shade,
                marker=MARKERS[i % len(MARKERS)],
                label=name,
                edgecolor="white",
                linewidth=0.4,
            )
        one.axhline(0, color="black", linewidth=0.5)
        one.axvline(0, color="black", linewidth=0.5)
        one.set(title=title, xlabel=f"{first}, log2")
        bare(one)
    axes[0].set_ylabel(f"{second}, log2")
    if colour:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _places(
    table: pd.DataFrame, rows: pd.Index, first: str, second: str
) -> tuple[np.ndarray, np.ndarray]:
    return table.loc[rows, first].to_numpy(), table.loc[rows, second].to_numpy()


def _telling(de: pd.DataFrame) -> tuple[str, str]:
    """Return the gene that varies most, and one that varies much on its own."""
    spread = de.std().sort_values(ascending=False)
    most = spread.index[: max(10, len(spread) // 20)]
    first = most[0]
    alone = (1 - de[most].corrwith(de[first]).abs().fillna(1)) * spread[most]
    return str(first), str(alone.drop(first).idxmax())
