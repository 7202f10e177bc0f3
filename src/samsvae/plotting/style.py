"""What the figures share: colours that the colour-blind can tell, sizes that can be read.

A band of colours beside perturbations: the pathway of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from samsvae.errors import InputError, listed, unknown

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#444444"),
    *("#8c3b8f", "#a0a000", "#00707a", "#b04a4a"),
)
"""Okabe and Ito's, and some darker ones."""
OTHER = "#c4c4c4"
MOST = 3000
"""Perturbations up to which every two of them are compared, to stand beside those alike."""
MARKERS = "osD^vP*Xhp<>"


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name; they come again after twelve."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def check_number(n: int) -> None:
    """Raise if there are more perturbations than a figure compares with each other."""
    if n > MOST:
        raise InputError(
            f"there are {n:,} perturbations, and a figure compares at most {MOST:,} with each "
            "other: give it some of them, such as those of the largest shifts"
        )


def bare(axes: Axes) -> None:
    """Take the upper and right lines off."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


GAIN, LOSS = "#d55e00", "#0072b2"
"""Of effects: up, down."""
UNITS = {"log": "log2", "normalized": "counts per 10,000", "mean": "units of the data"}


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes that were given, or those of a new figure of a size in inches."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def unit_of(table: pd.DataFrame) -> str:
    """Return the unit of effects in a table of discoveries."""
    return UNITS[table.attrs.get("scale", "log")]


def need(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise unless a table has columns, and rows.

    Raises
    ------
    InputError
        If one is missing (it tells the nearest), or there is nothing to draw.
    """
    for name in columns:
        if name not in table.columns:
            raise unknown(f"column of the table of {what}:", name, list(map(str, table.columns)))
    if table.empty:
        raise InputError(f"the table of {what} has no rows: there is nothing to draw")


def rows_of(table: pd.DataFrame, condition: str | None) -> pd.DataFrame:
    """Return the rows of a condition; without one, the table must be of a single one.

    Raises
    ------
    InputError
        If there is no such condition, or several and none is named.
    """
    if "condition" not in table.columns:
        return table
    names = [str(name) for name in pd.unique(table["condition"])]
    if condition is None:
        if len(names) > 1:
            raise InputError(f"the table has {len(names)} conditions: name one of {listed(names)}")
        return table
    if condition not in names:
        raise unknown("condition of the table:", condition, names)
    return table[table["condition"].astype(str) == condition]


def name_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> list[str]:
    """Write names beside points, in their order, where they cover no other name; return those.

    A name that has no room at any side of its point is left out.
    """
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.canvas.draw()  # so that places on the page are known
    taken: list[Bbox] = []
    written = []
    for a, b, name in zip(x, y, names, strict=True):
        for shift, side, level in _SIDES:
            text = ax.annotate(
                short(name),
                (a, b),
                shift,
                textcoords="offset points",
                ha=side,
                va=level,
                fontsize=8,
            )
            box = text.get_window_extent()
            inside = ax.bbox.padded(2).contains(box.x0, box.y0) and ax.bbox.padded(2).contains(
                box.x1, box.y1
            )
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                written.append(str(name))
                break
            text.remove()
    return written


_SIDES = (
    ((4, 2), "left", "bottom"),
    ((-4, 2), "right", "bottom"),
    ((4, -2), "left", "top"),
    ((-4, -2), "right", "top"),
    ((0, 6), "center", "bottom"),
    ((0, -6), "center", "top"),
)


def short(name: object, most: int = 24) -> str:
    """Return a name that has room beside an axis; nothing in it is taken for a formula."""
    text = str(name)
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return cut.replace("$", r"\$")


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
