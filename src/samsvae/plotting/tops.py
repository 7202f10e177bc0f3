"""The genes that a condition changes most, with how sure that is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.plotting.style import COLOURS, axes_of, bare, need, rows_of, short, unit_of


def top_effects(
    table: pd.DataFrame,
    condition: str | None = None,
    *,
    n_genes: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draw the largest effects of a condition with their 90 % intervals.

    Parameters
    ----------
    table
        As `samsvae.discoveries` returns it: gene, estimate, lower, upper; observed, if it is to be
        shown beside.
    condition
        Which, where the table has several.
    n_genes
        How many, by the size of the estimate.
    ax
        Where to draw.
    """
    need(table, ("gene", "estimate", "lower", "upper"), "effects")
    rows = rows_of(table, condition).dropna(subset="estimate")
    largest = rows["estimate"].abs().sort_values(ascending=False, kind="stable").index[:n_genes]
    rows = rows.loc[largest].sort_values("estimate")
    ax = axes_of(ax, (5, 1.2 + 0.22 * len(rows)))
    place = np.arange(len(rows))
    ax.hlines(place, rows["lower"], rows["upper"], color="#888888", linewidth=2)
    ax.plot(rows["estimate"], place, "o", color=COLOURS[0], label="estimate, 90 % interval")
    if "observed" in rows:
        ax.plot(rows["observed"], place, "x", color=COLOURS[1], label="observed")
        ax.legend(fontsize=8)
    ax.axvline(0, color="black", linewidth=0.5)
    ax.set_yticks(place, [short(name) for name in rows["gene"]], fontsize=8)
    ax.set_xlabel(f"effect, {unit_of(table)}")
    ax.set_title(short(condition or "", 40), fontsize=10)
    bare(ax)
    return ax
