"""How far models of different seeds agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.errors import unknown
from samsvae.plotting.style import axes_of, need, short


def stability_matrix(
    stability: pd.DataFrame, metric: str = "effect_pearson", *, ax: Axes | None = None
) -> Axes:
    """Draw one measure of agreement for every pair of models.

    Parameters
    ----------
    stability
        As `samsvae.stability` returns it: first, second, and the measures.
    metric
        Which: "mask_jaccard", "shift_agreement", "state_agreement", "effect_pearson" or another
        of its columns.
    ax
        Where to draw.

    Raises
    ------
    InputError
        If there is no such measure.
    """
    need(stability, ("first", "second"), "stability")
    measures = [str(name) for name in stability.columns if name not in ("first", "second")]
    if metric not in measures:
        raise unknown("measure of the table:", metric, measures)
    names = list(pd.unique(pd.concat([stability["first"], stability["second"]])))
    place = {name: i for i, name in enumerate(names)}
    n = len(names)
    matrix = np.full((n, n), np.nan)
    for row in stability.itertuples():
        i, j = place[row.first], place[row.second]
        matrix[i, j] = matrix[j, i] = getattr(row, metric)
    ax = axes_of(ax, (2.6 + 0.55 * n, 1.8 + 0.55 * n))
    image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
        dark = matrix[i, j] < 0.6
        ax.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=8,
                color="white" if dark else "black")  # fmt: skip
    labels = [short(name) for name in names]
    ax.set_xticks(range(n), labels, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(n), labels, fontsize=8)
    ax.set(xlabel="model", ylabel="model")
    figure = ax.get_figure()
    if figure is not None:
        label = f"{metric.replace('_', ' ')} (1: as one)"
        figure.colorbar(image, ax=ax, shrink=0.8, label=label)
    chance = f"{metric}_chance"
    if chance in stability:
        ax.set_title(f"by chance {stability[chance].mean():.2f}", fontsize=9)
    return ax
