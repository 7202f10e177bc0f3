"""Which perturbation shifts which latent dimension: all of them, clustered.

Masks and embeddings of perturbations, grouped by pathway (the paper's Figure 2).

Shifts of all perturbations, clustered (the paper's Figure 5).

Which perturbations shift cells the same way: all pairs, with a tree.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from samsvae.errors import InputError
from samsvae.ops.ordering import average_linkage_order
from samsvae.plotting.style import OTHER, band, bare, check_number, need, short

_NAMED_IN_MASKS = 80
"""Perturbations up to which each is named."""


def mask_heatmap(
    inclusion: pd.DataFrame,
    *,
    groups: pd.Series | None = None,
    effect_size: pd.Series | None = None,
) -> Figure:
    """Draw the shifts of all perturbations, those alike beside each other.

    Latent dimensions that nobody shifts with a probability above 1/2 are left out (all are shown
    where there is no such); perturbations never are.

    Parameters
    ----------
    inclusion
        As `model.inclusion` returns it: perturbation, dimension, probability, shift,
        n_train_cells.
    groups
        Pathway by perturbation: a band of colours.
    effect_size
        By perturbation, such as the root mean square of its effects: bars, beside those of its
        training cells.

    Raises
    ------
    InputError
        If a column is missing, or there are more than 3,000 perturbations.
    """
    need(inclusion, ("perturbation", "dimension", "probability", "shift"), "inclusions")
    wide = {
        name: inclusion.pivot(index="perturbation", columns="dimension", values=name)
        for name in ("probability", "shift")
    }
    used = (wide["probability"] > 0.5).any()
    columns = wide["shift"].columns[used] if used.any() else wide["shift"].columns
    shift = wide["shift"][columns].fillna(0)
    check_number(len(shift))
    shift = shift.iloc[
        average_linkage_order(shift.to_numpy()), average_linkage_order(shift.to_numpy().T)
    ]
    bars = {}
    if "n_train_cells" in inclusion:
        cells = inclusion.drop_duplicates("perturbation").set_index("perturbation")
        bars["training cells"] = cells["n_train_cells"].reindex(shift.index)
    if effect_size is not None:
        bars["effect size, log2"] = effect_size.reindex(shift.index)
    n = len(shift)
    height = min(2.2 + 0.17 * n, 16)
    widths = [0.25] * (groups is not None) + [max(3.0, min(8.0, 0.3 * len(columns)))]
    widths += [1.1] * len(bars)
    figure, grid = plt.subplots(
        1,
        len(widths),
        figsize=(sum(widths) + 3, height),
        width_ratios=widths,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    panels = list(grid[0])
    if groups is not None:
        band(figure, panels.pop(0), groups, shift.index, np.arange(n))
    heat = panels.pop(0)
    largest = float(np.abs(shift.to_numpy()).max()) or 1.0
    image = heat.imshow(
        shift,
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
        aspect="auto",
        interpolation="nearest",
    )
    heat.set_xticks(
        range(len(columns)), shift.columns, rotation=90, fontsize=7 if len(columns) <= 60 else 4
    )
    heat.set_xlabel("latent dimension")
    figure.colorbar(image, ax=heat, shrink=0.5, location="top", label="shift, latent units")
    if n <= _NAMED_IN_MASKS:
        grid[0][0].set_yticks(range(n), [short(name) for name in shift.index], fontsize=7)
    else:
        grid[0][0].set_yticks([])
        grid[0][0].set_ylabel(f"{n} perturbations")
    for axes, (label, values) in zip(panels, bars.items(), strict=True):
        axes.barh(range(n), values, 0.8 if n <= _NAMED_IN_MASKS else 1.0, color="#666666")
        axes.set_xlabel(label)
        axes.tick_params("y", length=0)
        bare(axes)
    return figure


def grouped_shifts(mask: pd.DataFrame, embedding: pd.DataFrame, groups: pd.Series) -> Figure:
    """Draw mask probabilities and masked embeddings side by side, perturbations by pathway.

    Latent dimensions that no perturbation shown moves are left out; the others come in the order
    of their use.

    Parameters
    ----------
    mask, embedding
        Perturbations x latent dimensions: posterior probability of the mask, and mean embedding.
    groups
        Pathway by perturbation; those drawn.
    """
    rows = [name for name in groups.sort_values(kind="stable").index if name in mask.index]
    group = groups.loc[rows]
    used = mask.loc[rows] > 0.5
    columns = used.sum().sort_values(ascending=False, kind="stable").index
    columns = columns[used.sum()[columns] > 0]
    columns = columns if len(columns) else mask.columns[:1]
    shift = (mask * embedding).loc[rows, columns]
    height = min(2 + 0.14 * len(rows), 14)
    figure, axes = plt.subplots(1, 2, figsize=(11, height), sharey=True, layout="constrained")
    largest = float(np.abs(shift.to_numpy()).max()) or 1.0
    drawn = (
        (mask.loc[rows, columns], "Greys", 0, 1, "mask: posterior probability"),
        (shift, "RdBu_r", -largest, largest, "shift: mask x embedding"),
    )
    for one, (table, colour, low, high, title) in zip(axes, drawn, strict=True):
        image = one.imshow(
            table, cmap=colour, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        one.set(title=title, xlabel=f"{len(columns)} latent dimensions in use", xticks=[])
        ends = np.flatnonzero(group.to_numpy()[1:] != group.to_numpy()[:-1])
        one.hlines(ends + 0.5, -0.5, len(columns) - 0.5, color="black", linewidth=0.8)
        figure.colorbar(image, ax=one, shrink=0.5, location="bottom", pad=0.02)
    places = pd.Series(np.arange(len(rows)), group.to_numpy()).groupby(level=0).mean()
    axes[0].set_yticks(places, [f"{name} ({(group == name).sum()})" for name in places.index])
    axes[0].tick_params("y", length=0)
    return figure


_NAMED_IN_CLUSTERS = 60
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
    columns = average_linkage_order(moved.to_numpy().T)
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
    if len(rows) <= _NAMED_IN_CLUSTERS:
        heat.set_yticks(place, [short(name) for name in rows], fontsize=7)
    else:
        heat.set(yticks=[], title=f"{len(rows)} perturbations")
    figure.colorbar(
        image, ax=heat, shrink=0.5, location="bottom", label="shift, latent units", pad=0.02
    )
    return figure


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
