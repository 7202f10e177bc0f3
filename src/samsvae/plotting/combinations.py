"""A combination beside its parts: their sum, the prediction, and what was observed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from samsvae.errors import InputError
from samsvae.plotting.style import axes_of, bare, need, rows_of, short, unit_of

_SHADES = ("#b0b0b0", "#7f7f7f", "#c8c8a0", "#a0a0c8")


def combination_bars(
    table: pd.DataFrame,
    condition: str,
    parts: Sequence[str],
    *,
    n_genes: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw, gene by gene, the parts of a combination, their sum, the prediction, the observation.

    Parameters
    ----------
    table
        As `samsvae.discoveries` returns it, with the combination and its parts: condition, gene,
        model, observed.
    condition
        The combination.
    parts
        Its single perturbations, as conditions of the table.
    n_genes
        Those in which the prediction or the observation is largest.
    ax
        Where to draw.

    Raises
    ------
    InputError
        If there are fewer than two parts, or one is not in the table.
    """
    need(table, ("condition", "gene", "model", "observed"), "effects")
    if len(parts) < 2:
        raise InputError(f"{condition!r} has {len(parts)} parts: expected two or more to add up")
    own = rows_of(table, condition).set_index("gene")
    singles = {one: rows_of(table, one).set_index("gene")["observed"] for one in parts}
    wide = pd.DataFrame({**singles})
    wide["sum"] = wide[list(parts)].sum(axis=1, skipna=False)
    wide["predicted"], wide["observed"] = own["model"], own["observed"]
    size = wide[["predicted", "observed"]].abs().max(axis=1)
    wide = wide.loc[size.sort_values(ascending=False, kind="stable").index[:n_genes]]
    styles = [(one, _SHADES[i % len(_SHADES)], "") for i, one in enumerate(parts)]
    styles += [("sum", "#d55e00", "//"), ("predicted", "#0072b2", ""), ("observed", "#222222", "")]
    ax = axes_of(ax, (1.6 + 0.75 * len(wide), 3.6))
    width = 0.85 / len(styles)
    for i, (name, colour, hatch) in enumerate(styles):
        place = np.arange(len(wide)) + (i - (len(styles) - 1) / 2) * width
        label = {"sum": "sum of singles"}.get(name, short(name))
        ax.bar(place, wide[name], width, color=colour, hatch=hatch, edgecolor="white", label=label)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(np.arange(len(wide)), [short(gene) for gene in wide.index], rotation=45)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    ax.set_ylabel(f"effect, {unit_of(table)}")
    ax.set_title(short(condition, 40), fontsize=10)
    ax.legend(fontsize=8, ncols=2)
    bare(ax)
    return ax
