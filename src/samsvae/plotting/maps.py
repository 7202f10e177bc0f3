"""Perturbations and cells as points in a plane, such as UMAP or two genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from samsvae.errors import InputError
from samsvae.plotting import style
from samsvae.types import Scale


def _plane(
    points: pd.DataFrame, what: str, ax: Axes | None, size: tuple[float, float]
) -> tuple[Axes, np.ndarray, np.ndarray]:
    """Return labelled axes, and the coordinates of points; raise if there are not two."""
    if points.shape[1] != 2:
        raise InputError(
            f"the points have {points.shape[1]} coordinates: expected two, as samsvae.projection "
            "returns them"
        )
    x, y = points.to_numpy(float).T
    n_lost = int((~np.isfinite(x + y)).sum())
    if n_lost == len(points):
        raise InputError(f"none of {len(points)} {what} has a place: there is nothing to draw")
    ax = style.axes_of(ax, size)
    lost = f"\n{n_lost:,} {what} without a place" if n_lost else ""
    ax.set(xlabel=f"{points.columns[0]}{lost}", ylabel=str(points.columns[1]))
    style.bare(ax)
    return ax, x, y


def _draw_groups(ax: Axes, x: np.ndarray, y: np.ndarray, own: pd.Series, *, sizes: Any) -> bool:
    """Draw points with a colour and marker per group; return whether there are groups."""
    other, names = own.isna().to_numpy(), sorted(own.dropna().unique())
    label = "other perturbations" if names else None
    if other.any():
        ax.scatter(x[other], y[other], s=sizes[0], color=style.OTHER, label=label)
    for i, name in enumerate(names):
        chosen = (own == name).to_numpy()
        edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.4, "label": style.short(name)}
        ax.scatter(x[chosen], y[chosen], s=sizes[1], **edge, **style.look(i))
    return bool(names)


def shift_map(
    points: pd.DataFrame,
    groups: pd.Series | None = None,
    *,
    n_named: int = 25,
    ax: Axes | None = None,
) -> Axes:
    """Draw perturbations in a plane, coloured by pathway (the paper's Figure 6).

    `points` are perturbations x 2, as `samsvae.projection` returns them; the columns name the axes.
    `groups` is the pathway by perturbation. The most distant perturbations, `n_named` of them, are
    named where there is room.
    """
    ax, x, y = _plane(points, "perturbations", ax, (7.5, 5))
    own = style.groups_of(groups, points.index).reindex(points.index)
    if _draw_groups(ax, x, y, own, sizes=(14, 34)):
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    distance = np.hypot(x - np.nanmedian(x), y - np.nanmedian(y))
    furthest = np.argsort(np.where(np.isnan(distance), np.inf, -distance), kind="stable")
    furthest = furthest[:n_named][np.isfinite(distance[furthest[:n_named]])]
    style.name_points(ax, x[furthest], y[furthest], list(points.index[furthest]))
    return ax


_INK = 4e4
"""Area of all points together, in square points: of fewer cells each is larger."""


def cell_map(
    points: pd.DataFrame,
    colour: pd.Series | None = None,
    *,
    n_coloured: int = 11,
    ax: Axes | None = None,
) -> Axes:
    """Draw cells in a plane, coloured by condition, batch, probability of response or the like.

    Basal states should look alike in all conditions: where they do not, they still contain
    information on the perturbations. States contain the label of each cell (`model.latent`), so
    that they lie apart by condition is no evidence of an effect.

    Parameters
    ----------
    points
        Cells x 2, as `samsvae.projection` returns them, of `adata.obsm["X_samsvae"]` (states) or of
        "X_samsvae_basal"; the columns name the axes.
    colour
        By cell: numbers (drawn on a scale) or categories; its name is the title. Cells without a
        value are grey, and so are all categories but the `n_coloured` with the most cells.
    """
    ax, x, y = _plane(points, "cells", ax, (6.5, 5))
    size = float(np.clip(_INK / len(points), 1.5, 25))
    dots: dict[str, Any] = {"s": size, "lw": 0, "rasterized": True}
    # In random order: no category covers the others.
    order = np.random.default_rng(0).permutation(len(points))
    if colour is None:
        ax.scatter(x[order], y[order], color=style.COLOURS[0], alpha=0.6, **dots)
        return ax
    own = colour[~colour.index.duplicated()].reindex(points.index).astype(object)
    cells = pd.DataFrame({"x": x, "y": y, "value": own.to_numpy()}).iloc[order]
    if is_numeric_dtype(colour) and not is_bool_dtype(colour):
        _draw_numbers(ax, cells.astype(float), str(colour.name or "value"), dots)
    else:
        _draw_categories(ax, cells, n_coloured, dots)
        ax.legend(
            title=None if colour.name is None else str(colour.name),
            fontsize=8,
            title_fontsize=8,
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            markerscale=max(1.0, (25 / size) ** 0.5),
        )
    return ax


def _draw_numbers(ax: Axes, cells: pd.DataFrame, label: str, dots: dict[str, Any]) -> None:
    has_value = np.isfinite(cells["value"])
    without, rest = cells[~has_value], cells[has_value]
    if len(without):
        unknown = f"not known: {len(without):,}"
        ax.scatter(without["x"], without["y"], color=style.OTHER, label=unknown, **dots)
        ax.legend(fontsize=8, loc="upper left", frameon=False)
    if len(rest):
        drawn = ax.scatter(rest["x"], rest["y"], c=rest["value"], cmap="cividis", **dots)
        style.colour_bar(ax, drawn, label)


def _draw_categories(ax: Axes, cells: pd.DataFrame, n_coloured: int, dots: dict[str, Any]) -> None:
    names = cells["value"].dropna().astype(str)
    n_cells = names.value_counts()
    n_cells = n_cells.sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    own = dict(zip(n_cells.index[:n_coloured], style.COLOURS, strict=False))
    shade = names.map(own).reindex(cells.index).astype(object)
    grey, coloured = cells[shade.isna()], cells[shade.notna()]
    ax.scatter(grey["x"], grey["y"], color=style.OTHER, **dots)
    ax.scatter(coloured["x"], coloured["y"], c=list(shade.dropna()), **dots)
    entries = [(f"{style.short(name)}: {n_cells[name]:,}", one) for name, one in own.items()]
    rest, n_unknown = n_cells.iloc[len(own) :], len(cells) - len(names)
    if len(rest):
        entries.append((f"{len(rest):,} others: {rest.sum():,}", style.OTHER))
    if n_unknown:
        entries.append((f"not known: {n_unknown:,}", style.OTHER))
    for label, one in entries:
        ax.scatter([], [], color=one, label=label, s=dots["s"], lw=0)


def gene_projection(
    ate: pd.DataFrame,
    de: pd.DataFrame,
    groups: pd.Series | None = None,
    genes: tuple[str, str] | None = None,
    *,
    scale: Scale | None = None,
) -> Figure:
    """Draw the effects of perturbations on two genes: DE of held-out cells, and the model's ATE.

    The paper's Figure 3. `ate` and `de` are conditions x genes, on one `scale`, and `groups` is the
    pathway by condition. The default `genes` are the one whose DE varies most, and another that
    varies and is least correlated with it.
    """
    rows = ate.index.intersection(de.index)
    if genes is None:
        spread = de.loc[rows].std().sort_values(ascending=False)
        top = spread.index[: max(10, len(spread) // 20)]
        similarity = de.loc[rows, top].corrwith(de.loc[rows, top[0]]).abs().fillna(1)
        independent = (1 - similarity) * spread[top]
        genes = str(top[0]), str(independent.drop(top[0]).idxmax())
    first, second = genes
    own = style.groups_of(groups, rows).reindex(rows)
    figure, panels = style.row_of_panels(2, (10, 4.6), sharex=True, sharey=True)
    drawn = {"DE of test cells": de, "ATE of the model": ate}
    for axes, (title, table) in zip(panels, drawn.items(), strict=True):
        x, y = (table.loc[rows, gene].to_numpy() for gene in (first, second))
        has_groups = _draw_groups(axes, x, y, own, sizes=(14, 30))
        axes.axhline(0, color="black", linewidth=0.5)
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set(title=title, xlabel=style.with_unit(first, scale))
        style.bare(axes)
    panels[0].set_ylabel(style.with_unit(second, scale))
    if has_groups:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right center", fontsize=8)
    return figure
