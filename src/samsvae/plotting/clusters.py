"""Shifts of all perturbations, clustered (the paper's Figure 5)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.cluster.hierarchy import dendrogram, linkage

from samsvae.plotting.style import OTHER, colours

_NAMED = 60
"""Perturbations up to which each is named."""


def clustered_shifts(shift: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Draw a hierarchical clustering of perturbations by their shifts (average linkage, Euclidean).

    Parameters
    ----------
    shift
        Perturbations x latent dimensions: mask * embedding. Dimensions that nobody moves are left
        out.
    groups
        Pathway by perturbation, shown as a band of colours.
    """
    moved = shift.loc[:, np.abs(shift).max() > 0.05 * np.abs(shift.to_numpy()).max()]
    tree = linkage(shift.to_numpy(), "average")
    height = min(3 + 0.16 * len(shift), 14)
    figure, (left, band, heat) = plt.subplots(
        1, 3, figsize=(9, height), width_ratios=(2, 0.3, 6), layout="constrained"
    )
    order = dendrogram(
        tree,
        orientation="left",
        no_labels=True,
        ax=left,
        color_threshold=0,
        above_threshold_color="black",
    )["leaves"]
    left.axis("off")
    rows = shift.index[order]
    known = pd.Series(dtype=str) if groups is None else groups[groups.index.isin(rows)]
    colour = colours(sorted(known.unique()))
    shade = [colour.get(known.get(name, ""), OTHER if colour else "white") for name in rows]
    place = 10 * np.arange(len(rows)) + 5
    band.barh(place, 1, 10, color=shade)
    band.axis("off")
    columns = np.arange(moved.shape[1])
    if len(columns) > 2:
        columns = dendrogram(linkage(moved.to_numpy().T, "average"), no_plot=True)["leaves"]
    largest = float(np.abs(moved.to_numpy()).max(initial=1e-9))
    image = heat.imshow(
        moved.iloc[order, list(columns)],
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        extent=(0, len(columns), 0, 10 * len(rows)),
    )
    for one in (left, band, heat):
        one.set_ylim(0, 10 * len(rows))
    heat.set(xlabel=f"{moved.shape[1]} latent dimensions", xticks=[])
    heat.yaxis.tick_right()
    if len(rows) <= _NAMED:
        heat.set_yticks(place, rows, fontsize=7)
    else:
        heat.set(yticks=[], title=f"{len(rows)} perturbations")
    figure.colorbar(image, ax=heat, shrink=0.5, location="bottom", label="shift", pad=0.02)
    if colour:
        handles = [Patch(color=one) for one in colour.values()]
        figure.legend(handles, colour, loc="outside upper center", ncols=4, fontsize=8)
    return figure
