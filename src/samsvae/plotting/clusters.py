"""Shifts of all perturbations, clustered (the paper's Figure 5)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage

from samsvae.errors import InputError
from samsvae.plotting.bands import band
from samsvae.plotting.style import check_number, short

_NAMED = 60
"""Perturbations up to which each is named."""


def clustered_shifts(shift: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Draw a hierarchical clustering of perturbations by their shifts (average linkage, Euclidean).

    Parameters
    ----------
    shift
        Perturbations x latent dimensions: mask * embedding; what is not known is taken as 0.
        Dimensions that nobody moves are left out.
    groups
        Pathway by perturbation, shown as a band of colours.

    Raises
    ------
    InputError
        If there is nothing to draw, or more than 3,000 perturbations.
    """
    if shift.empty:
        raise InputError(f"the table of shifts is {shift.shape[0]} x {shift.shape[1]}: it is empty")
    check_number(len(shift))
    known = shift.fillna(0)
    size = np.abs(known.to_numpy())
    moved = known.loc[:, size.max(0) > 0.05 * size.max()]
    height = min(3 + 0.16 * len(shift), 14)
    figure, (left, side, heat) = plt.subplots(
        1, 3, figsize=(9, height), width_ratios=(2, 0.3, 6), layout="constrained"
    )
    order = [0]
    if len(known) > 1:
        order = dendrogram(
            linkage(known.to_numpy(), "average"),
            orientation="left",
            no_labels=True,
            ax=left,
            color_threshold=0,
            above_threshold_color="black",
        )["leaves"]
    left.axis("off")
    rows = shift.index[order]
    place = 10 * np.arange(len(rows)) + 5
    if groups is None:
        side.axis("off")
    else:
        band(figure, side, groups, rows, place)
        side.set_yticks([])
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
    for one in (left, side, heat):
        one.set_ylim(0, 10 * len(rows))
    heat.set(xlabel=f"{moved.shape[1]} latent dimensions", xticks=[])
    heat.yaxis.tick_right()
    if len(rows) <= _NAMED:
        heat.set_yticks(place, [short(name) for name in rows], fontsize=7)
    else:
        heat.set(yticks=[], title=f"{len(rows)} perturbations")
    figure.colorbar(
        image, ax=heat, shrink=0.5, location="bottom", label="shift, latent units", pad=0.02
    )
    return figure
