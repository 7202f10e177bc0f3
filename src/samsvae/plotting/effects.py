"""Effects on genes: of one condition, of a combination and its parts, at several doses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samsvae._deprecated import renamed_arguments
from samsvae.benchmark.metrics.effects import pearson
from samsvae.errors import InputError, unknown
from samsvae.plotting import style


def _effects(table: pd.DataFrame, condition: str | None, columns: Iterable[str]) -> pd.DataFrame:
    """Return the rows of a condition with an estimate, one per gene."""
    style.need(table, ("gene", "estimate", *columns), "effects")
    required = [name for name in ("estimate", "observed", "lfsr") if name in columns]
    return style.genes_of(table, condition).dropna(subset=["estimate", *required])


def _largest(size: pd.Series, n: int) -> pd.Index:
    return size.sort_values(ascending=False, kind="stable").index[:n]


def effect_scatter(
    table: pd.DataFrame, condition: str | None = None, *, n_named: int = 10, ax: Axes | None = None
) -> Axes:
    """Draw the effects of a condition on all genes against its observed differences from control.

    `table` is as `samsvae.discoveries` returns it: gene, estimate, lower, upper, observed. Genes
    with the largest effects, `n_named` of them, are named where there is room.
    """
    rows = _effects(table, condition, ("lower", "upper", "observed"))
    ax = style.axes_of(ax, (5, 4.6))
    x, y = rows["observed"].to_numpy(float), rows["estimate"].to_numpy(float)
    ends = np.nan_to_num(np.stack([y - rows["lower"], rows["upper"] - y]).clip(0))
    ax.errorbar(x, y, ends, fmt="none", ecolor="#bbbbbb", elinewidth=0.8, zorder=1)
    ax.plot(x, y, "o", color=style.COLOURS[0], markersize=3.5, alpha=0.8, zorder=2)
    both = np.concatenate([[0], x, y])
    ends_of_line = [both.min(), both.max()]
    ax.plot(ends_of_line, ends_of_line, color="black", linewidth=0.7, linestyle="--", zorder=0)
    r = float(pearson(x, y)) if len(x) > 1 else float("nan")
    correlation = "" if np.isnan(r) else f"r = {r:.2f}, {len(x):,} genes"
    labels = {"xlabel": style.with_unit("observed difference from control", table)}
    style.finish(ax, **labels, ylabel=style.with_unit("effect", table))
    ax.set_title(f"{style.short(condition or '', 40)}\n{correlation}".strip(), fontsize=10)
    largest = np.argsort(-np.maximum(np.abs(x), np.abs(y)), kind="stable")[:n_named]
    style.name_points(ax, x[largest], y[largest], list(rows["gene"].iloc[largest]))
    return ax


def top_effects(
    table: pd.DataFrame, condition: str | None = None, *, n_genes: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw the largest effects of a condition with their 90 % intervals.

    `table` is as `samsvae.discoveries` returns it: gene, estimate, lower, upper, and observed, if
    that is to be drawn, too; of the `n_genes` genes with the largest estimates.
    """
    rows = _effects(table, condition, ("lower", "upper"))
    rows = rows.loc[_largest(rows["estimate"].abs(), n_genes)].sort_values("estimate")
    ax = style.axes_of(ax, (5, 1.2 + 0.22 * len(rows)))
    place = np.arange(len(rows))
    ax.hlines(place, rows["lower"], rows["upper"], color="#888888", linewidth=2)
    ax.plot(rows["estimate"], place, "o", color=style.COLOURS[0], label="estimate, 90 % interval")
    if "observed" in rows:
        ax.plot(rows["observed"], place, "x", color=style.COLOURS[1], label="observed")
        ax.legend(fontsize=8)
    ax.axvline(0, color="black", linewidth=0.5)
    ax.set_yticks(place, [style.short(name) for name in rows["gene"]], fontsize=8)
    return style.finish(ax, condition, xlabel=style.with_unit("effect", table))


_MIN_LFSR = 1e-12
"""Below it an lfsr depends on rounding: such genes are drawn on a line at the top."""


@renamed_arguments(rate="fdr")
def volcano(
    table: pd.DataFrame,
    condition: str | None = None,
    *,
    fdr: float = 0.05,
    n_named: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Draw the effects of a condition on all genes against the evidence for them.

    `table` is as `samsvae.discoveries` returns it: gene, estimate, lfsr, and q_value for calls.
    Genes with a q_value (or lfsr, if there is no q_value) below `fdr` are coloured; the most
    certain, `n_named` of them, are named where there is room.
    """
    rows = _effects(table, condition, ("lfsr",))
    ax = style.axes_of(ax, (5.4, 4.4))
    x = rows["estimate"].to_numpy(float)
    y = -np.log10(rows["lfsr"].to_numpy(float).clip(_MIN_LFSR, 1))
    by = "q_value" if "q_value" in rows else "lfsr"
    called = rows[by].to_numpy(float) < fdr
    for chosen, colour, marker, label in (
        (~called, style.OTHER, "o", "not called"),
        (called & (x > 0), style.GAIN, "^", "up"),
        (called & (x <= 0), style.LOSS, "v", "down"),
    ):
        label = f"{label}: {chosen.sum():,}"
        ax.plot(x[chosen], y[chosen], marker, color=colour, ms=4.5, label=label)
    ax.axvline(0, color="black", linewidth=0.5)
    ax.margins(0.08)
    ax.legend(title=f"{by.replace('_', ' ')} below {fdr:g}", fontsize=8, title_fontsize=8)
    label = style.with_unit("effect", table)
    style.finish(ax, condition, xlabel=label, ylabel="-log10 local false sign rate")
    order = np.lexsort((-np.abs(x), -y))
    order = order[called[order]][:n_named]
    style.name_points(ax, x[order], y[order], list(rows["gene"].iloc[order]))
    return ax


def dose_curve(
    effects: AnnData,
    genes: Sequence[str] | None = None,
    *,
    n_genes: int = 6,
    unit: str = "units of the screen",
    ax: Axes | None = None,
) -> Axes:
    """Draw the effects of a perturbation on some genes against its dose, with 90 % intervals.

    `effects` are as `model.dose_response` returns them; `unit` is that of the dose. By default the
    `n_genes` genes with the largest effect at any dose are drawn.
    """
    if "dose" not in effects.obs:
        raise InputError("the effects have no doses: expected those of model.dose_response")
    size = np.abs(np.asarray(effects.X, float)).max(0)
    if genes is None:
        genes = list(effects.var_names[np.argsort(-size, kind="stable")[:n_genes]])
    for gene in genes:
        if gene not in effects.var_names:
            raise unknown("gene", gene, list(effects.var_names))
    ax = style.axes_of(ax, (5.2, 3.8))
    dose = effects.obs["dose"].to_numpy(float)
    for i, gene in enumerate(genes):
        at = effects.var_names.get_loc(gene)
        lower, upper = (np.asarray(effects.layers[end])[:, at] for end in ("lower", "upper"))
        ax.fill_between(dose, lower, upper, color=style.look(i)["color"], alpha=0.18, linewidth=0)
        ax.plot(dose, np.asarray(effects.X)[:, at], ms=4, label=style.short(gene), **style.look(i))
    ax.axhline(0, color="black", linewidth=0.5)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    label = style.with_unit("effect", effects)
    return style.finish(ax, xlabel=f"dose, {unit}", ylabel=label)


_PART_COLOURS = ("#b0b0b0", "#7f7f7f", "#c8c8a0", "#a0a0c8")


def combination_bars(
    table: pd.DataFrame,
    condition: str,
    parts: Sequence[str],
    *,
    n_genes: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw the effects of a combination, of its parts and their sum, gene by gene.

    `table` is as `samsvae.discoveries` returns it, with the combination (`condition`) and its
    single perturbations (`parts`): condition, gene, model, observed. Of the `n_genes` genes with
    the largest predicted or observed effects.
    """
    style.need(table, ("condition", "gene", "model", "observed"), "effects")
    if len(parts) < 2:
        raise InputError(f"{condition!r} has {len(parts)} parts: expected two or more to add up")
    own = style.genes_of(table, condition).set_index("gene")
    singles = {one: style.genes_of(table, one).set_index("gene")["observed"] for one in parts}
    wide = pd.DataFrame(singles)
    wide["sum"] = wide[list(parts)].sum(axis=1, skipna=False)
    wide["predicted"], wide["observed"] = own["model"], own["observed"]
    wide = wide.loc[_largest(wide[["predicted", "observed"]].abs().max(axis=1), n_genes)]
    styles = [(one, _PART_COLOURS[i % len(_PART_COLOURS)], "") for i, one in enumerate(parts)]
    styles += [("sum", "#d55e00", "//"), ("predicted", "#0072b2", ""), ("observed", "#222222", "")]
    ax = style.axes_of(ax, (1.6 + 0.75 * len(wide), 3.6))
    width = 0.85 / len(styles)
    for i, (name, colour, hatch) in enumerate(styles):
        place = np.arange(len(wide)) + (i - (len(styles) - 1) / 2) * width
        label = {"sum": "sum of singles"}.get(name, style.short(name))
        ax.bar(place, wide[name], width, color=colour, hatch=hatch, edgecolor="white", label=label)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(np.arange(len(wide)), [style.short(gene) for gene in wide.index], rotation=45)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    ax.legend(fontsize=8, ncols=2)
    return style.finish(ax, condition, ylabel=style.with_unit("effect", table))


_KINDS = (
    ("observed", "data", "#222222", "o"),
    ("predicted", "model", "#0072b2", "D"),
    ("additive", "sum of singles", "#d55e00", "x"),
)


def nonadditive_genes(table: pd.DataFrame, *, n_genes: int = 12) -> Figure:
    """Draw the effects of combinations on the genes in which they are least additive (Figure 7).

    `table` has the columns condition, gene, observed (DE of held-out cells), predicted (the model's
    ATE) and additive (the sum of the singles' DE). There is a panel per condition, in their order,
    of `n_genes` genes.
    """
    style.need(table, ("condition", "gene", "observed", "predicted", "additive"), "combinations")
    conditions = list(dict.fromkeys(table["condition"]))
    size = (3.2 * len(conditions) + 0.8, 1.2 + 0.3 * n_genes)
    figure, panels = style.row_of_panels(len(conditions), size)
    for axes, condition in zip(panels, conditions, strict=True):
        rows = style.rows_of(table, str(condition))
        deviation = (rows["observed"] - rows["additive"]).abs()
        rows = rows.loc[deviation.sort_values(ascending=False).index[:n_genes]].iloc[::-1]
        place = np.arange(len(rows))
        for name, label, colour, marker in _KINDS:
            axes.plot(rows[name], place, marker, color=colour, label=label, markersize=6)
        axes.hlines(place, rows["observed"], rows["additive"], color="#cccccc", zorder=0)
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set_yticks(place, rows["gene"], fontsize=8)
        style.finish(axes, str(condition), xlabel=style.with_unit("effect", table))
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
