"""Effects against what the cells show, gene by gene.

The genes that a condition changes most, with how sure that is.

Discoveries of a condition: how large against how sure.

Effects against the dose.

What a screen can find: cells of a condition against the effect found.

Are stated rates honest: intervals, false sign rates, control sgRNAs.

A combination beside its parts: their sum, the prediction, and what was observed.

Combinations whose effect is not the sum of its parts, gene by gene (the paper's Figure 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samsvae.benchmark.metrics.effects import pearson
from samsvae.errors import InputError, unknown
from samsvae.plotting.style import (
    COLOURS,
    GAIN,
    LOSS,
    MARKERS,
    OTHER,
    UNITS,
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
    r = float(pearson(x, y)) if len(x) > 1 else float("nan")
    told = "" if np.isnan(r) else f"r = {r:.2f}, {len(x):,} genes"
    ax.set(xlabel=f"observed difference from control, {unit}", ylabel=f"effect, {unit}")
    ax.set_title(f"{title}\n{told}".strip(), fontsize=10)
    bare(ax)
    largest = np.argsort(-np.maximum(np.abs(x), np.abs(y)), kind="stable")[:n_named]
    name_points(ax, x[largest], y[largest], list(rows["gene"].iloc[largest]))
    return ax


def top_effects(
    table: pd.DataFrame,
    condition: str | None = None,
    *,
    n_genes: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draw the largest effects of a condition with their 90 % intervals.

    Parameters
    ----------
    table
        As `samsvae.discoveries` returns it: gene, estimate, lower, upper; observed, if it is to be
        shown beside.
    condition
        Which, where the table has several.
    n_genes
        How many, by the size of the estimate.
    ax
        Where to draw.
    """
    need(table, ("gene", "estimate", "lower", "upper"), "effects")
    rows = rows_of(table, condition).dropna(subset="estimate")
    largest = rows["estimate"].abs().sort_values(ascending=False, kind="stable").index[:n_genes]
    rows = rows.loc[largest].sort_values("estimate")
    ax = axes_of(ax, (5, 1.2 + 0.22 * len(rows)))
    place = np.arange(len(rows))
    ax.hlines(place, rows["lower"], rows["upper"], color="#888888", linewidth=2)
    ax.plot(rows["estimate"], place, "o", color=COLOURS[0], label="estimate, 90 % interval")
    if "observed" in rows:
        ax.plot(rows["observed"], place, "x", color=COLOURS[1], label="observed")
        ax.legend(fontsize=8)
    ax.axvline(0, color="black", linewidth=0.5)
    ax.set_yticks(place, [short(name) for name in rows["gene"]], fontsize=8)
    ax.set_xlabel(f"effect, {unit_of(table)}")
    ax.set_title(short(condition or "", 40), fontsize=10)
    bare(ax)
    return ax


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


def dose_curve(
    effects: AnnData,
    genes: Sequence[str] | None = None,
    *,
    n_genes: int = 6,
    unit: str = "units of the screen",
    ax: Axes | None = None,
) -> Axes:
    """Draw the effect of a perturbation on some genes, dose by dose, with its 90 % interval.

    Parameters
    ----------
    effects
        As `model.dose_response` returns them.
    genes
        Which; by default those with the largest effect at any dose.
    n_genes
        How many of these.
    unit
        Of the dose.
    ax
        Where to draw.

    Raises
    ------
    InputError
        If the effects have no doses, or a gene is unknown.
    """
    if "dose" not in effects.obs:
        raise InputError("the effects have no doses: expected those of model.dose_response")
    size = np.abs(np.asarray(effects.X, float)).max(0)
    if genes is None:
        genes = list(effects.var_names[np.argsort(-size, kind="stable")[:n_genes]])
    for gene in genes:
        if gene not in effects.var_names:
            raise unknown("gene", gene, list(effects.var_names))
    ax = axes_of(ax, (5.2, 3.8))
    dose = effects.obs["dose"].to_numpy(float)
    for i, gene in enumerate(genes):
        at = effects.var_names.get_loc(gene)
        colour = COLOURS[i % len(COLOURS)]
        lower, upper = (np.asarray(effects.layers[end])[:, at] for end in ("lower", "upper"))
        ax.fill_between(dose, lower, upper, color=colour, alpha=0.18, linewidth=0)
        ate = np.asarray(effects.X)[:, at]
        ax.plot(dose, ate, color=colour, marker=MARKERS[i % len(MARKERS)], ms=4, label=short(gene))
    ax.axhline(0, color="black", linewidth=0.5)
    scale = UNITS.get(str(effects.uns.get("scale", "log")), "")
    ax.set(xlabel=f"dose, {unit}", ylabel=f"effect, {scale}")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    bare(ax)
    return ax


_DECADE = 10
"""Where the most cells are more than so many times the fewest, the axis is logarithmic."""


def screen_power(
    table: pd.DataFrame, *, rate: float = 0.05, n_named: int = 8, ax: Axes | None = None
) -> Axes:
    """Draw how many genes each condition is found to change, against its cells.

    Where conditions of many cells change few genes, these perturbations do little; where all those
    of few cells do, the screen has too few cells to tell. The colour is the size of the effect.

    Parameters
    ----------
    table
        As `samsvae.discoveries` returns it: condition, estimate, q_value, n_cells.
    rate
        A gene with a q_value below it is found.
    n_named
        Conditions with the most genes that are named where there is room.
    ax
        Where to draw.
    """
    need(table, ("condition", "estimate", "q_value", "n_cells"), "discoveries")
    names, x, y, size = [], [], [], []
    for name, rows in table.groupby("condition", observed=True, sort=False):
        names.append(str(name))
        x.append(int(rows["n_cells"].iloc[0]))
        y.append(int((rows["q_value"] < rate).sum()))
        size.append(float(np.sqrt(np.square(rows["estimate"]).mean())))
    ax = axes_of(ax, (5.6, 4))
    cells, found = np.array(x), np.array(y)
    points = ax.scatter(cells, found, c=size, s=22, cmap="cividis", edgecolor="black", lw=0.3)
    if cells.max() > _DECADE * cells[cells > 0].min(initial=cells.max()):
        ax.set_xscale("symlog", linthresh=1)  # a condition that nobody measured has 0 cells
        ax.set_xlim(-0.1 if (cells == 0).any() else max(cells.min() / 1.5, 0.5), 1.5 * cells.max())
    else:
        ax.set_xlim(-0.03 * cells.max() - 0.5, 1.1 * cells.max() + 0.5)
    ax.set(xlabel="cells of the condition", ylabel=f"genes found to change (q below {rate:g})")
    figure = ax.get_figure()
    if figure is not None:
        label = f"root mean square effect, {unit_of(table)}"
        figure.colorbar(points, ax=ax, label=label)
    bare(ax)
    most = np.argsort(-found, kind="stable")[:n_named]
    name_points(ax, cells[most], found[most], [names[i] for i in most])
    return ax


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


_KINDS = (
    ("observed", "data", "#222222", "o"),
    ("predicted", "model", "#0072b2", "D"),
    ("additive", "sum of singles", "#d55e00", "x"),
)


def nonadditive_genes(table: pd.DataFrame, *, n_genes: int = 12) -> Figure:
    """Draw the effects of combinations on the genes in which they are least additive.

    Parameters
    ----------
    table
        Columns condition, gene, observed (DE of held-out cells), predicted (the model's ATE),
        additive (the sum of the singles' DE). A panel per condition, in their order.
    n_genes
        Of each.
    """
    conditions = list(dict.fromkeys(table["condition"]))
    figure, axes = plt.subplots(
        1,
        len(conditions),
        figsize=(3.2 * len(conditions) + 0.8, 0.6 + 0.3 * n_genes + 0.6),
        layout="constrained",
        squeeze=False,
    )
    for one, condition in zip(axes[0], conditions, strict=True):
        rows = table[table["condition"] == condition]
        beyond = (rows["observed"] - rows["additive"]).abs()
        rows = rows.loc[beyond.sort_values(ascending=False).index[:n_genes]].iloc[::-1]
        place = np.arange(len(rows))
        for name, label, colour, marker in _KINDS:
            one.plot(rows[name], place, marker, color=colour, label=label, markersize=6)
        one.hlines(place, rows["observed"], rows["additive"], color="#cccccc", zorder=0)
        one.axvline(0, color="black", linewidth=0.5)
        one.set_yticks(place, rows["gene"], fontsize=8)
        one.set_title(condition, fontsize=9)
        one.set_xlabel("effect, log2")
        bare(one)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
