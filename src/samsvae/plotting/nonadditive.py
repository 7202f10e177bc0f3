"""Combinations whose effect is not the sum of its parts, gene by gene (the paper's Figure 7)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samsvae.plotting.style import bare

_KINDS = (
    ("observed", "data", "#222222", "o"),
    ("predicted", "model", "#0072b2", "D"),
    ("additive", "sum of singles", "#d55e00", "x"),
)


def nonadditive_genes(table: pd.DataFrame, *, n_genes: int = 12) -> Figure:
    """Draw the effects of combinations on the genes in which they are least additive.

    Parameters
    ----------
    table
        Columns condition, gene, observed (DE of held-out cells), predicted (the model's ATE),
        additive (the sum of the singles' DE). A panel per condition, in their order.
    n_genes
        Of each.
    """
    conditions = list(dict.fromkeys(table["condition"]))
    figure, axes = plt.subplots(
        1,
        len(conditions),
        figsize=(3.2 * len(conditions) + 0.8, 0.6 + 0.3 * n_genes + 0.6),
        layout="constrained",
        squeeze=False,
    )
    for one, condition in zip(axes[0], conditions, strict=True):
        rows = table[table["condition"] == condition]
        beyond = (rows["observed"] - rows["additive"]).abs()
        rows = rows.loc[beyond.sort_values(ascending=False).index[:n_genes]].iloc[::-1]
        place = np.arange(len(rows))
        for name, label, colour, marker in _KINDS:
            one.plot(rows[name], place, marker, color=colour, label=label, markersize=6)
        one.hlines(place, rows["observed"], rows["additive"], color="#cccccc", zorder=0)
        one.axvline(0, color="black", linewidth=0.5)
        one.set_yticks(place, rows["gene"], fontsize=8)
        one.set_title(condition, fontsize=9)
        one.set_xlabel("effect, log2")
        bare(one)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
