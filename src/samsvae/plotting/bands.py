"""A band of colours beside perturbations: the pathway of each."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from samsvae.plotting.style import OTHER, colours, short


def known_groups(groups: pd.Series | None, names: pd.Index) -> pd.Series:
    """Return the groups of those names that have one; each name once."""
    if groups is None:
        return pd.Series(dtype=str)
    known = groups.dropna()
    known = known[known.index.isin(names)]
    return known[~known.index.duplicated()].astype(str)


def band(figure: Figure, axes: Axes, groups: pd.Series, names: pd.Index, place: np.ndarray) -> None:
    """Draw a band of colours along the vertical axis, and its legend below the figure.

    Parameters
    ----------
    figure, axes
        Of the legend, and of the band.
    groups
        Group by name; a name without one is grey.
    names
        Those drawn, in their order.
    place
        Where along the axis, evenly spaced.
    """
    known = known_groups(groups, names)
    colour = colours(sorted(known.unique()))
    shades = [colour.get(known.get(name, ""), OTHER) for name in names]
    step = place[1] - place[0] if len(place) > 1 else 1.0
    axes.barh(place, 1, step, color=shades)
    axes.set(xlim=(0, 1), xticks=[])
    axes.margins(y=0)
    entries = [(short(name, 40), one) for name, one in colour.items()]
    entries += [("none", OTHER)] if len(known) < len(names) else []
    figure.legend(
        [Patch(color=one) for _, one in entries],
        [name for name, _ in entries],
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
