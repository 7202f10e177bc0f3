"""Discoveries of a condition: how large against how sure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.plotting.style import (
    GAIN,
    LOSS,
    OTHER,
    axes_of,
    bare,
    name_points,
    need,
    rows_of,
    short,
    unit_of,
)

_SUREST = 1e-12
"""Below it, what an lfsr is depends on rounding: such genes stand on a line at the top."""


def volcano(
    table: pd.DataFrame,
    condition: str | None = None,
    *,
    rate: float = 0.05,
    n_named: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Draw every gene of a condition at its effect and the evidence for it.

    Parameters
    ----------
    table
        As `samsvae.discoveries` returns it: gene, estimate, lfsr; q_value, if it is to call.
    condition
        Which, where the table has several.
    rate
        Genes with a q_value (an lfsr, where there is none) below it are coloured.
    n_named
        The surest of them that are named where there is room.
    ax
        Where to draw.
    """
    need(table, ("gene", "estimate", "lfsr"), "discoveries")
    rows = rows_of(table, condition).dropna(subset=["estimate", "lfsr"])
    ax = axes_of(ax, (5.4, 4.4))
    x = rows["estimate"].to_numpy(float)
    y = -np.log10(rows["lfsr"].to_numpy(float).clip(_SUREST, 1))
    by = "q_value" if "q_value" in rows else "lfsr"
    called = rows[by].to_numpy(float) < rate
    for chosen, colour, marker, label in (
        (~called, OTHER, "o", "not called"),
        (called & (x > 0), GAIN, "^", "up"),
        (called & (x <= 0), LOSS, "v", "down"),
    ):
        ax.plot(
            x[chosen], y[chosen], marker, color=colour, ms=4.5, label=f"{label}: {chosen.sum():,}"
        )
    ax.axvline(0, color="black", linewidth=0.5)
    ax.margins(0.08)
    ax.set(xlabel=f"effect, {unit_of(table)}", ylabel="-log10 local false sign rate")
    ax.set_title(short(condition or "", 40), fontsize=10)
    ax.legend(title=f"{by.replace('_', ' ')} below {rate:g}", fontsize=8, title_fontsize=8)
    bare(ax)
    order = np.lexsort((-np.abs(x), -y))
    order = order[called[order]][:n_named]
    name_points(ax, x[order], y[order], list(rows["gene"].iloc[order]))
    return ax
