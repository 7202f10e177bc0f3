"""Effects against what the cells show, gene by gene."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.plotting.style import (
    COLOURS,
    axes_of,
    bare,
    name_points,
    need,
    rows_of,
    short,
    unit_of,
)


def effect_scatter(
    table: pd.DataFrame,
    condition: str | None = None,
    *,
    n_named: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw the effects of a condition on all genes against its observed differences from control.

    Parameters
    ----------
    table
        As `samsvae.discoveries` returns it: gene, estimate, lower, upper, observed.
    condition
        Which, where the table has several.
    n_named
        Genes of the largest effects, observed or estimated, that are named where there is room.
    ax
        Where to draw.
    """
    need(table, ("gene", "estimate", "lower", "upper", "observed"), "effects")
    rows = rows_of(table, condition).dropna(subset=["estimate", "observed"])
    ax = axes_of(ax, (5, 4.6))
    x, y = rows["observed"].to_numpy(float), rows["estimate"].to_numpy(float)
    ends = np.nan_to_num(np.stack([y - rows["lower"], rows["upper"] - y]).clip(0))
    ax.errorbar(x, y, ends, fmt="none", ecolor="#bbbbbb", elinewidth=0.8, zorder=1)
    ax.plot(x, y, "o", color=COLOURS[0], markersize=3.5, alpha=0.8, zorder=2)
    low = min(x.min(initial=0), y.min(initial=0))
    high = max(x.max(initial=0), y.max(initial=0))
    ax.plot([low, high], [low, high], color="black", linewidth=0.7, linestyle="--", zorder=0)
    unit, title = unit_of(table), short(condition or "", 40)
    r = float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and x.std() * y.std() > 0 else float("nan")
    told = "" if np.isnan(r) else f"r = {r:.2f}, {len(x):,} genes"
    ax.set(xlabel=f"observed difference from control, {unit}", ylabel=f"effect, {unit}")
    ax.set_title(f"{title}\n{told}".strip(), fontsize=10)
    bare(ax)
    largest = np.argsort(-np.maximum(np.abs(x), np.abs(y)), kind="stable")[:n_named]
    name_points(ax, x[largest], y[largest], list(rows["gene"].iloc[largest]))
    return ax
