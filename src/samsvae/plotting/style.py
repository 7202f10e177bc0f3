"""What the figures share: colours that the colour-blind can tell, sizes that can be read."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#444444"),
    *("#8c3b8f", "#a0a000", "#00707a", "#b04a4a"),
)
"""Okabe and Ito's, and some darker ones."""
OTHER = "#c4c4c4"
MARKERS = "osD^vP*Xhp<>"


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name; they come again after twelve."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def bare(axes: Axes) -> None:
    """Take the upper and right lines off."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
