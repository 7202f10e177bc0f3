"""Which perturbations shift cells the same way: all pairs, with a tree."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from samsvae.errors import InputError
from samsvae.plotting.bands import band
from samsvae.plotting.style import OTHER, bare, check_number, short

_NAMED = 80
"""Perturbations up to which each is named."""
_LEAF = 10.0
"""Room that SciPy's dendrogram gives each leaf."""


def shift_similarity(shift: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Draw the cosine of every two perturbations' shifts, with a tree of those alike.

    1: the same direction, -1: the opposite, 0: nothing in common. The tree is of average linkage on
    1 - cosine. A perturbation that shifts nothing, or of which that is not known, has no direction:
    it stands at the end, in grey.

    Parameters
    ----------
    shift
        Perturbations x latent dimensions (or genes): mask * embedding, say
        `model.mask_probabilities() * model.embeddings()`.
    groups
        Pathway by perturbation: a band of colours.

    Raises
    ------
    InputError
        If there is nothing to draw, or more than 3,000 perturbations.
    """
    if shift.empty:
        raise InputError(f"the table of shifts is {shift.shape[0]} x {shift.shape[1]}: it is empty")
    check_number(len(shift))
    cosine, known, tree = _cosines(shift.to_numpy(float))
    n = len(shift)
    size = min(2.6 + 0.16 * n, 15)
    widths = [1.3, *([0.22] if groups is not None else []), size - 2]
    figure, (branches, *bands, heat) = plt.subplots(
        1, len(widths), figsize=(sum(widths) + 2, size), width_ratios=widths, layout="constrained"
    )
    leaves = _branches(branches, tree)
    order = np.concatenate([known[leaves[: len(known)]], np.setdiff1d(np.arange(n), known)])
    names = shift.index[order]
    place = _LEAF * (np.arange(n) + 0.5)
    if groups is not None:
        band(figure, bands[0], groups, names, place)
    shades = plt.get_cmap("RdBu_r").with_extremes(bad=OTHER)
    image = heat.imshow(
        np.ma.masked_invalid(cosine[np.ix_(order, order)]),
        cmap=shades,
        vmin=-1,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        extent=(0, _LEAF * n, 0, _LEAF * n),
    )
    for one in (branches, *bands, heat):
        one.set_ylim(_LEAF * n, 0)
        if one is not heat:
            one.set_yticks([])
    heat.yaxis.tick_right()
    heat.set_xticks([])
    if n <= _NAMED:
        heat.set_yticks(place, [short(name) for name in names], fontsize=7)
    else:
        heat.set_yticks([])
    told = f"; {n - len(known)} without a direction" if len(known) < n else ""
    heat.set_xlabel(f"{n} perturbation{'s' if n > 1 else ''}, in the same order{told}")
    figure.colorbar(image, ax=heat, shrink=0.6, location="top", label="cosine of the shifts")
    return figure


def _cosines(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cosines of rows, NaN where there is no direction; which have one, and their tree.

    Parameters
    ----------
    values
        `perturbation latent`.
    """
    length = np.linalg.norm(values, axis=1)
    known = np.flatnonzero(np.isfinite(length) & (length > 0))
    unit = values[known] / length[known, None]
    found = (unit @ unit.T).clip(-1, 1)
    np.fill_diagonal(found, 1)
    cosine = np.full((len(values), len(values)), np.nan)
    cosine[np.ix_(known, known)] = found
    alone = len(known) < 2
    tree = np.zeros((0, 4)) if alone else linkage(squareform(1 - found, checks=False), "average")
    return cosine, known, tree


def _branches(axes: Axes, tree: np.ndarray) -> np.ndarray:
    """Draw a tree; return the order of its leaves."""
    if not len(tree):
        axes.axis("off")
        return np.zeros(1, int)
    leaves = dendrogram(
        tree,
        orientation="left",
        no_labels=True,
        ax=axes,
        color_threshold=0,
        above_threshold_color="black",
    )["leaves"]
    axes.set_xlabel("1 - cosine")
    axes.spines["left"].set_visible(False)
    bare(axes)
    return np.array(leaves)
