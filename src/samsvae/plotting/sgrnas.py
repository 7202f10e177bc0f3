"""The sgRNAs of a target: which of them work."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.plotting.style import COLOURS, axes_of, bare, need, rows_of, short

_HALF_WIDTH = 1.645
"""Of a 90 % interval, in standard errors."""


def sgrnas_of_target(
    strengths: pd.DataFrame, condition: str | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw the effect of each sgRNA as a multiple of that of the target's other sgRNAs.

    0 is like control, 1 like the others.

    Parameters
    ----------
    strengths
        `samsvae.sgrnas(screen).sgrnas`: sgrna, n_cells, strength, strength_se.
    condition
        Which, where the table has several.
    ax
        Where to draw.
    """
    need(strengths, ("sgrna", "n_cells", "strength", "strength_se"), "sgRNAs")
    rows = rows_of(strengths, condition).sort_values("strength", kind="stable")
    ax = axes_of(ax, (5, 1.3 + 0.3 * len(rows)))
    place, half = np.arange(len(rows)), _HALF_WIDTH * rows["strength_se"]
    value = rows["strength"]
    ax.hlines(place, value - half, value + half, color="#888888", linewidth=2)
    ax.plot(value, place, "o", color=COLOURS[0])
    for x, style in ((0, "-"), (1, "--")):
        ax.axvline(x, color="black", linewidth=0.7, linestyle=style)
    labels = [f"{short(row.sgrna)} ({row.n_cells:,})" for row in rows.itertuples()]
    ax.set_yticks(place, labels, fontsize=8)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel("strength, multiple of the others' effect\n(line: 90 % of the sampling error)")
    ax.set_title(short(condition or "", 40), fontsize=10)
    ax.set_ylabel("sgRNA (cells)")
    bare(ax)
    return ax
