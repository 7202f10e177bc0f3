"""Which perturbation shifts which latent dimension: all of them, clustered."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage

from samsvae.plotting.bands import band
from samsvae.plotting.style import bare, check_number, need, short

_NAMED = 80
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
    shift = shift.iloc[_order(shift.to_numpy()), _order(shift.to_numpy().T)]
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
    if n <= _NAMED:
        grid[0][0].set_yticks(range(n), [short(name) for name in shift.index], fontsize=7)
    else:
        grid[0][0].set_yticks([])
        grid[0][0].set_ylabel(f"{n} perturbations")
    for axes, (label, values) in zip(panels, bars.items(), strict=True):
        axes.barh(range(n), values, 0.8 if n <= _NAMED else 1.0, color="#666666")
        axes.set_xlabel(label)
        axes.tick_params("y", length=0)
        bare(axes)
    return figure


def _order(values: np.ndarray) -> np.ndarray:
    """Return rows in the order of a clustering (average linkage)."""
    if len(values) < 3:
        return np.arange(len(values))
    order: np.ndarray = leaves_list(linkage(values, "average"))
    return order
