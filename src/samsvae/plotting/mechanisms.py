"""One mechanism on a card: what moves it, and what it moves.

The sgRNAs of a target: which of them work.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samsvae.errors import unknown
from samsvae.plotting.style import COLOURS, GAIN, LOSS, axes_of, bare, need, rows_of, short

_MOST = 25
"""Perturbations that are drawn; how many more there are is told."""


def mechanism_card(
    mechanisms: pd.DataFrame,
    dimension: str,
    *,
    gene_sets: pd.DataFrame | None = None,
) -> Figure:
    """Draw a mechanism: its perturbations with their shifts, its genes, and sets rich in them.

    Parameters
    ----------
    mechanisms
        As `model.mechanisms` returns it.
    dimension
        Which: a name of its index.
    gene_sets
        As `samsvae.enrichment` returns it, of this mechanism: gene_set, direction, q_rank; the
        surest five are told.

    Raises
    ------
    InputError
        If there is no such mechanism.
    """
    need(mechanisms, ("perturbations", "shifts", "probabilities", "up", "down"), "mechanisms")
    if dimension not in mechanisms.index:
        raise unknown("mechanism", dimension, list(map(str, mechanisms.index)))
    row = mechanisms.loc[dimension]
    n = min(len(row["perturbations"]), _MOST)
    figure, (bars, words) = plt.subplots(
        1, 2, figsize=(8.5, max(3.2, 1.3 + 0.22 * n)), width_ratios=(3, 4), layout="constrained"
    )
    shift = np.asarray(row["shifts"][:n], float)
    place = np.arange(n)
    colour = np.where(shift > 0, GAIN, LOSS)
    bars.barh(place, shift, 0.75, color=colour)
    for y, probability in zip(place, row["probabilities"][:n], strict=True):
        bars.text(1.01, y, f"{probability:.2f}", transform=bars.get_yaxis_transform(), va="center")
    bars.text(1.01, -0.9, "P", transform=bars.get_yaxis_transform(), va="center", fontsize=8)
    bars.set_yticks(place, [short(name) for name in row["perturbations"][:n]], fontsize=8)
    bars.set_ylim(n - 0.4, -1.3)
    bars.axvline(0, color="black", linewidth=0.6)
    more = len(row["perturbations"]) - n
    told = f" ({more} more perturbations)" if more else ""
    bars.set_xlabel(f"shift, latent units{told}")
    bare(bars)
    lines = [
        ("genes that rise", GAIN, _wrapped(row["up"])),
        ("genes that fall", LOSS, _wrapped(row["down"])),
    ]
    if gene_sets is not None:
        need(gene_sets, ("gene_set", "direction", "q_rank"), "gene sets")
        surest = gene_sets.sort_values("q_rank", kind="stable").head(5)
        sets = [
            f"{short(one.gene_set, 40)} ({'+' if one.direction > 0 else '-'}, q = {one.q_rank:.2g})"
            for one in surest.itertuples()
        ]
        lines.append(("gene sets", "black", "\n".join(sets)))
    _write(words, lines)
    share = f"{row['share']:.0%} of the squared shifts" if "share" in row else ""
    figure.suptitle(f"mechanism {dimension}: {share}".rstrip(": "), fontsize=11)
    return figure


def _wrapped(names: list[str], width: int = 46) -> str:
    lines = [""]
    for name in map(short, names):
        if lines[-1] and len(lines[-1]) + len(name) > width:
            lines.append("")
        lines[-1] += f", {name}" if lines[-1] else name
    return "\n".join(lines) or "none"


def _write(axes: Axes, lines: list[tuple[str, str, str]]) -> None:
    axes.axis("off")
    rows = sum(2.6 + text.count("\n") for _, _, text in lines)
    step, y = min(0.085, 1 / rows), 1.0
    for title, colour, text in lines:
        axes.text(0, y, title, color=colour, va="top", weight="bold", fontsize=9)
        axes.text(0, y - step, text or "none", va="top", fontsize=8.5, linespacing=1.25)
        y -= step * (2.6 + text.count("\n"))


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
