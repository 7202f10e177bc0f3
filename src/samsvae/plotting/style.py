"""What the plots share: colours that the colour-blind can tell apart, units, names, heat maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from samsvae.errors import InputError, listed, unknown

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#444444"),
    *("#8c3b8f", "#a0a000", "#00707a", "#b04a4a"),
)
"""Okabe and Ito's, and some darker ones."""
GAIN, LOSS, OTHER = "#d55e00", "#0072b2", "#c4c4c4"
"""Of effects upwards and downwards; of everything without a colour of its own."""
MARKERS = "osD^vP*Xhp<>"
MAX_NAMED = 80
"""Rows of a heat map up to which each is named."""
UNITS = {
    "lfc": "log2 fold change",
    "log": "log2(1 + counts per 10,000)",
    "normalized": "counts per 10,000",
    "mean": "units of the data",
}
"""By scale of effects."""


def with_unit(label: str, table: Any) -> str:
    """Return the label of an axis, with the unit of the effects in a table, if it states one.

    The scale is read from the column `scale`, from `attrs` of a Series or `uns` of AnnData; `table`
    may also be the scale itself.
    """
    if isinstance(table, pd.DataFrame) and "scale" in table.columns:
        scales = list(pd.unique(table["scale"].dropna().astype(str)))
    else:
        stated = getattr(table, "uns", getattr(table, "attrs", {"scale": table})).get("scale")
        scales = [] if stated is None else [str(stated)]
    if len(scales) > 1:
        raise InputError(f"the table has effects on several scales, {listed(scales)}: plot one")
    return f"{label}, {UNITS.get(scales[0], scales[0])}" if scales else label


def look(i: int) -> dict[str, Any]:
    """Return the colour and marker of the i-th curve."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the given axes, or those of a new figure of a size in inches."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def row_of_panels(n: int, size: tuple[float, float], **settings: Any) -> tuple[Figure, list[Axes]]:
    """Return a new figure of a size in inches with n panels side by side."""
    figure, grid = plt.subplots(1, n, figsize=size, layout="constrained", squeeze=False, **settings)
    return figure, list(grid[0])


def bare(axes: Axes) -> None:
    """Remove the upper and right borders."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def finish(ax: Axes, title: str | None = None, **labels: str) -> Axes:
    """Set title and labels of axes, remove their upper and right borders, and return them."""
    ax.set(**labels)
    ax.set_title(short(title or "", 40), fontsize=10)
    bare(ax)
    return ax


def need(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise unless a table has columns and rows."""
    for name in columns:
        if name not in table.columns:
            raise unknown(f"column of the table of {what}:", name, list(map(str, table.columns)))
    if table.empty:
        raise InputError(f"the table of {what} has no rows: there is nothing to draw")


def rows_of(table: pd.DataFrame, condition: str | None) -> pd.DataFrame:
    """Return the rows of a condition; without one, the table must have a single condition."""
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


def genes_of(table: pd.DataFrame, condition: str | None) -> pd.DataFrame:
    """Return the rows of a condition, one per gene; raise if there are several sgRNAs."""
    rows = rows_of(table, condition)
    if "sgrna" in rows.columns and rows["sgrna"].nunique() > 1:
        sgrnas = list(pd.unique(rows["sgrna"].astype(str)))
        raise InputError(
            f"the table has {len(sgrnas)} sgRNAs, {listed(sgrnas)}: keep the rows of one, or take "
            'the table of samsvae.discoveries(..., by="condition")'
        )
    return rows


def short(name: object, n_max: int = 24) -> str:
    """Return a name that fits next to an axis; no part of it is interpreted as a formula."""
    text = str(name)
    cut = text if len(text) <= n_max else f"{text[: n_max - 3]}..."
    return cut.replace("$", r"\$")


def name_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write names next to points; the last of those that would cover each other are left out."""
    from adjustText import adjust_text

    if not len(names):
        return
    points = zip(x, y, map(short, names), strict=True)
    texts = [ax.text(*point, fontsize=8) for point in points]
    arrows = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.5}
    _, lines = adjust_text(texts, ax=ax, arrowprops=arrows, iter_lim=200)
    taken: list[Any] = []
    for text in texts:
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            for line in (one for one in lines if one.patchA is text):
                line.remove()
            text.remove()
        else:
            taken.append(box)


def groups_of(groups: pd.Series | None, names: pd.Index) -> pd.Series:
    """Return the groups of the names that have one; each name once."""
    if groups is None:
        return pd.Series(dtype=str)
    own = groups.dropna()
    own = own[own.index.isin(names)]
    return own[~own.index.duplicated()].astype(str)


def colour_bar(ax: Axes, drawn: ScalarMappable, label: str, **settings: Any) -> None:
    """Add the bar of colours of what was drawn, with its label."""
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(drawn, ax=ax, label=label, **settings)


def heat_map(axes: Axes, values: Any, label: str, **settings: Any) -> None:
    """Draw values, `row column`, as colours around 0, with a bar of colours and its label.

    Settings are those of `imshow`, and `where`, the side of the bar of colours.
    """
    bar: dict[str, Any] = {"location": settings.pop("where", "bottom"), "shrink": 0.5}
    if bar["location"] == "bottom":
        bar["pad"] = 0.02
    largest = float(np.abs(np.asarray(values)).max(initial=0)) or 1.0
    shades: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest, **settings}
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **shades)
    colour_bar(axes, image, label, **bar)


def name_rows(axes: Axes, places: Sequence[float] | np.ndarray, names: Iterable[object]) -> None:
    """Name the rows of a heat map, if there are not too many of them."""
    labels = [short(name) for name in names]
    if len(labels) <= MAX_NAMED:
        axes.set_yticks(places, labels, fontsize=7)
    else:
        axes.set_yticks([])


def band(figure: Figure, axes: Axes, groups: pd.Series, names: pd.Index, place: np.ndarray) -> None:
    """Draw the groups of perturbations as a vertical band of colours, with a legend below.

    `names` are those drawn, at evenly spaced places; one without a group is grey.
    """
    own = groups_of(groups, names)
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(sorted(own.unique()))}
    shades = [colour.get(own.get(name, ""), OTHER) for name in names]
    step = place[1] - place[0] if len(place) > 1 else 1.0
    axes.barh(place, 1, step, color=shades)
    axes.set(xlim=(0, 1), xticks=[])
    axes.margins(y=0)
    entries = [(short(name, 40), one) for name, one in colour.items()]
    entries += [("none", OTHER)] if len(own) < len(names) else []
    handles, labels = [Patch(color=one) for _, one in entries], [name for name, _ in entries]
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
