"""Masks and embeddings of perturbations, grouped by pathway (the paper's Figure 2)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure


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
