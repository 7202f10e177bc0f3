"""What a screen can find: cells of a condition against the effect found."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.plotting.style import axes_of, bare, name_points, need, unit_of

_DECADE = 10
"""Where the most cells are more than so many times the fewest, the axis is logarithmic."""


def screen_power(
    table: pd.DataFrame, *, rate: float = 0.05, n_named: int = 8, ax: Axes | None = None
) -> Axes:
    """Draw how many genes each condition is found to change, against its cells.

    Where conditions of many cells change few genes, these perturbations do little; where all those
    of few cells do, the screen has too few cells to tell. The colour is the size of the effect.

    Parameters
    ----------
    table
        As `samsvae.discoveries` returns it: condition, estimate, q_value, n_cells.
    rate
        A gene with a q_value below it is found.
    n_named
        Conditions with the most genes that are named where there is room.
    ax
        Where to draw.
    """
    need(table, ("condition", "estimate", "q_value", "n_cells"), "discoveries")
    names, x, y, size = [], [], [], []
    for name, rows in table.groupby("condition", observed=True, sort=False):
        names.append(str(name))
        x.append(int(rows["n_cells"].iloc[0]))
        y.append(int((rows["q_value"] < rate).sum()))
        size.append(float(np.sqrt(np.square(rows["estimate"]).mean())))
    ax = axes_of(ax, (5.6, 4))
    cells, found = np.array(x), np.array(y)
    points = ax.scatter(cells, found, c=size, s=22, cmap="cividis", edgecolor="black", lw=0.3)
    if cells.max() > _DECADE * cells[cells > 0].min(initial=cells.max()):
        ax.set_xscale("symlog", linthresh=1)  # a condition that nobody measured has 0 cells
        ax.set_xlim(-0.1 if (cells == 0).any() else max(cells.min() / 1.5, 0.5), 1.5 * cells.max())
    else:
        ax.set_xlim(-0.03 * cells.max() - 0.5, 1.1 * cells.max() + 0.5)
    ax.set(xlabel="cells of the condition", ylabel=f"genes found to change (q below {rate:g})")
    figure = ax.get_figure()
    if figure is not None:
        label = f"root mean square effect, {unit_of(table)}"
        figure.colorbar(points, ax=ax, label=label)
    bare(ax)
    most = np.argsort(-found, kind="stable")[:n_named]
    name_points(ax, cells[most], found[most], [names[i] for i in most])
    return ax
