"""Perturbations in a plane, such as UMAP gives (the paper's Figure 6)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samsvae.plotting.style import MARKERS, OTHER, colours


def shift_map(points: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Draw perturbations in a plane, coloured by pathway.

    Parameters
    ----------
    points
        Perturbations x 2; the columns name the axes.
    groups
        Pathway by perturbation.
    """
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    known = pd.Series(dtype=str) if groups is None else groups[groups.index.isin(points.index)]
    others = points.index.difference(known.index)
    x, y = points.loc[others].to_numpy().T
    label = "other perturbations" if len(others) and len(known) else None
    axes.scatter(x, y, s=14, color=OTHER, label=label)
    for i, (name, colour) in enumerate(colours(sorted(known.unique())).items()):
        x, y = points.loc[known.index[known == name]].to_numpy().T
        axes.scatter(
            x,
            y,
            s=34,
            color=colour,
            marker=MARKERS[i % len(MARKERS)],
            label=name,
            edgecolor="white",
            linewidth=0.4,
        )
    axes.set(xlabel=points.columns[0], ylabel=points.columns[1], xticks=[], yticks=[])
    if len(known):
        figure.legend(loc="outside right center", fontsize=8)
    return figure
