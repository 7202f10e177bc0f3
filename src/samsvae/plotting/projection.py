"""Perturbations in the plane of two genes, as a model and as the data see them (Figure 3)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samsvae.plotting.style import MARKERS, OTHER, bare, colours


def gene_projection(
    ate: pd.DataFrame,
    de: pd.DataFrame,
    groups: pd.Series | None = None,
    genes: tuple[str, str] | None = None,
) -> Figure:
    """Draw each perturbation at its effects on two genes: DE of held-out cells, and the ATE.

    Parameters
    ----------
    ate, de
        Conditions x genes, on one scale.
    groups
        Pathway by condition, to be coloured.
    genes
        Which; by default the one whose DE varies most, and the next that correlates least with it.
    """
    rows = ate.index.intersection(de.index)
    first, second = genes or _telling(de.loc[rows])
    known = pd.Series(dtype=str) if groups is None else groups[groups.index.isin(rows)]
    colour = colours(sorted(known.unique()))
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4.6), sharex=True, sharey=True, layout="constrained"
    )
    titles = ("DE of test cells", "ATE of the model")
    for one, table, title in zip(axes, (de, ate), titles, strict=True):
        others = rows.difference(known.index)
        label = "other perturbations" if colour and len(others) else None
        one.scatter(*_places(table, others, first, second), s=14, color=OTHER, label=label)
        for i, (name, shade) in enumerate(colour.items()):
            members = known.index[known == name]
            place = _places(table, members, first, second)
            one.scatter(
                *place,
                s=30,
                color=shade,
                marker=MARKERS[i % len(MARKERS)],
                label=name,
                edgecolor="white",
                linewidth=0.4,
            )
        one.axhline(0, color="black", linewidth=0.5)
        one.axvline(0, color="black", linewidth=0.5)
        one.set(title=title, xlabel=f"{first}, log2")
        bare(one)
    axes[0].set_ylabel(f"{second}, log2")
    if colour:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _places(
    table: pd.DataFrame, rows: pd.Index, first: str, second: str
) -> tuple[np.ndarray, np.ndarray]:
    return table.loc[rows, first].to_numpy(), table.loc[rows, second].to_numpy()


def _telling(de: pd.DataFrame) -> tuple[str, str]:
    """Return the gene that varies most, and one that varies much on its own."""
    spread = de.std().sort_values(ascending=False)
    most = spread.index[: max(10, len(spread) // 20)]
    first = most[0]
    alone = (1 - de[most].corrwith(de[first]).abs().fillna(1)) * spread[most]
    return str(first), str(alone.drop(first).idxmax())
