"""Are stated rates honest: intervals, false sign rates, control sgRNAs."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from samsvae.plotting.style import COLOURS, MARKERS, axes_of, bare, need


def calibration_curve(
    table: pd.DataFrame,
    *,
    what: str = "share of intervals that cover",
    ax: Axes | None = None,
) -> Axes:
    """Draw what was found against what was stated; on the diagonal statements are honest.

    Parameters
    ----------
    table
        Columns expected (the level of an interval, an lfsr, a quantile) and found (the share that
        covers, that is wrong, that is below), both from 0 to 1; label, if there are several curves;
        lower and upper, if what was found has an interval.
    what
        Of what was found.
    ax
        Where to draw.
    """
    need(table, ("expected", "found"), "calibration")
    ax = axes_of(ax, (4.4, 4.2))
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    label = table["label"] if "label" in table else pd.Series("", table.index)
    for i, (name, rows) in enumerate(table.groupby(label, sort=False)):
        rows = rows.sort_values("expected", kind="stable")
        colour = COLOURS[i % len(COLOURS)]
        if {"lower", "upper"} <= set(rows):
            ax.fill_between(
                rows["expected"], rows["lower"], rows["upper"], color=colour, alpha=0.2, lw=0
            )
        marker = MARKERS[i % len(MARKERS)]
        shown = str(name) or None
        ax.plot(rows["expected"], rows["found"], color=colour, marker=marker, ms=4.5, label=shown)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set(xlabel="stated, share", ylabel=f"found: {what}")
    if "label" in table:
        ax.legend(fontsize=8)
    bare(ax)
    return ax
