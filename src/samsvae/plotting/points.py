"""Perturbations in a plane, such as UMAP gives (the paper's Figure 6)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.errors import InputError
from samsvae.plotting.bands import known_groups
from samsvae.plotting.style import MARKERS, OTHER, axes_of, bare, colours, name_points, short


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
