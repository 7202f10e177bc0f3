"""How far models and screens can be trusted: training, scores, calibration, stability, power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samsvae._deprecated import renamed_arguments, renamed_column
from samsvae.errors import unknown
from samsvae.plotting import style
from samsvae.types import ALL_CONDITIONS

_TERMS = ("likelihood", "basal", "mask_prob", "mask", "embedding", "dose_response")


def training_history(history: pd.DataFrame) -> Figure:
    """Draw the history of a training: ELBOs, terms of the ELBO, mask sparsity, against the step.

    A dashed line marks the alignment, after which masks are trained: validation ELBOs before and
    after it belong to different models. A circle marks the checkpoint that was kept. The ELBO of
    validation cells is predictive: without the KL terms of masks and embeddings, it may be higher.

    `history` is as `model.history`: step, elbo, valid_elbo, and what else there is. There is a
    panel for the ELBOs, one for each term that is not always 0, and one for the share of mask
    entries that are not in use.
    """
    style.need(history, ("step", "elbo"), "the history")
    terms = [name for name in _TERMS if name in history and history[name].fillna(0).any()]
    sparsity = history["mask_sparsity"].dropna() if "mask_sparsity" in history else pd.Series()
    n = 1 + len(terms) + (len(sparsity) > 0)
    n_columns, n_rows = min(3, n), -(-n // min(3, n))
    size = (4.2 * n_columns, 2.9 * n_rows)
    figure, grid = plt.subplots(
        n_rows, n_columns, figsize=size, layout="constrained", squeeze=False
    )
    panels = list(grid.ravel())
    dots: dict[str, Any] = {"marker": "o", "markersize": 3}
    _draw_elbos(panels[0], history)
    for axes, name, colour in zip(panels[1:], terms, style.COLOURS[2:], strict=False):
        axes.plot(history["step"], history[name], color=colour, **dots)
        axes.set(title=name.replace("_", " "), ylabel="nats per cell")
    if len(sparsity):
        axes = panels[n - 1]
        axes.plot(history["step"][sparsity.index], sparsity, color="black", **dots)
        low, high = axes.get_ylim()
        axes.set(title="mask entries not in use", ylabel="share", ylim=(low, min(high, 1.005)))
    aligned = history.get("is_aligned", pd.Series(False, history.index)).to_numpy(bool)
    for axes in panels[:n]:
        axes.set_xlabel("step")
        style.bare(axes)
        if aligned.any() and not aligned.all():  # between two rows of the history
            first = int(np.argmax(aligned))
            step = float(history["step"].iloc[first - 1 : first + 1].mean())
            axes.axvline(step, color="#666666", linestyle="--", lw=1, label="masks begin")
    panels[0].legend(fontsize=8, frameon=False)
    for axes in panels[n:]:
        axes.remove()
    return figure


def _draw_elbos(axes: Axes, history: pd.DataFrame) -> None:
    curves = [("elbo", "training cells")]
    if "valid_elbo" in history and history["valid_elbo"].notna().any():
        curves.append(("valid_elbo", "validation cells, predictive"))
    for i, (name, label) in enumerate(curves):
        axes.plot(history["step"], history[name], label=label, markersize=3, **style.look(i))
    if "is_best" in history and history["is_best"].any() and len(curves) > 1:
        best = history[history["is_best"]].iloc[-1]
        ring: dict[str, Any] = {"mfc": "none", "mec": "black", "ms": 9, "label": "kept"}
        axes.plot(best["step"], best["valid_elbo"], "o", **ring)
    # The first steps are far below the others: the range shows the end of training.
    later = history[history["step"] >= 0.15 * history["step"].max()]
    values = later[[name for name, _ in curves]].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.08 * (high - low) or 1.0
    axes.set(ylim=(low - margin, high + margin), title="ELBO", ylabel="nats per cell")


_IN_UNITS = ("rmse", "mae", "interaction_rmse")
"""Metrics in the units of effects."""
_REPLICATE = "technical replicate"


def metric_strip(
    scores: pd.DataFrame,
    metrics: Sequence[str] = ("ate_pearson", "ate_r2", "pearson_from_perturbation_mean", "rmse"),
    *,
    split: str = "test",
) -> Figure:
    """Draw the scores of all predictors side by side, a panel for each metric.

    The dotted line is the technical replicate: half of the cells predicts the other half. `scores`
    is as `samsvae.evaluate` returns it: predictor, split, metric, value, scale, and lower and upper
    for intervals; of several conditions the rows of "(all)" are drawn.
    """
    style.need(scores, ("predictor", "split", "metric", "value"), "scores")
    pooled = scores[scores["condition"] == ALL_CONDITIONS] if "condition" in scores else scores
    for column, name in (("split", split), *(("metric", one) for one in metrics)):
        if name not in set(pooled[column]):
            raise unknown(f"{column} of the table:", name, list(map(str, pooled[column].unique())))
    pooled = pooled[pooled["split"] == split]
    names = [str(one) for one in pd.unique(pooled["predictor"]) if one != _REPLICATE]
    size = (1.6 + 2.6 * len(metrics), 1.4 + 0.28 * len(names))
    figure, panels = style.row_of_panels(len(metrics), size, sharey=True)
    for axes, metric in zip(panels, metrics, strict=True):
        own = pooled[pooled["metric"] == metric].drop_duplicates("predictor")
        _draw_scores(axes, own.set_index("predictor"), names)
        label = metric.replace("_", " ")
        if metric in _IN_UNITS:
            label = style.with_unit(label, pooled)
        axes.set_xlabel(f"{label}, nats per cell" if metric == "iwelbo" else label, fontsize=9)
    panels[0].set_yticks(np.arange(len(names)), names, fontsize=8)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(f"{split} cells; dotted: technical replicate", fontsize=9)
    return figure


def _draw_scores(axes: Axes, scores: pd.DataFrame, names: Sequence[str]) -> None:
    rows = scores.reindex(names)
    if {"lower", "upper"} <= set(rows):
        place = np.arange(len(names))
        axes.hlines(place, rows["lower"], rows["upper"], color="#aaaaaa", linewidth=2)
    middle = axes.get_yaxis_transform()
    for y, value in enumerate(rows["value"]):
        axes.plot(value, y, ms=6, **style.look(y))
        if np.isnan(value):
            axes.text(0.5, y, "no score", ha="center", va="center", fontsize=7, transform=middle)
    replicate = scores["value"].get(_REPLICATE, np.nan)
    if np.isfinite(replicate):
        axes.axvline(replicate, color="black", linestyle=":", linewidth=1.2)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    style.bare(axes)


LABELS = {"iwelbo": "test IWELBO, nats per cell", "ate_pearson": "ATE-Pearson"}


def fraction_curves(
    table: pd.DataFrame,
    *,
    reference: str | None = None,
    what: str = "share of combinations trained on",
    labels: Mapping[str, str] = LABELS,
) -> Figure:
    """Draw the mean and standard deviation of scores over splits, against the fraction.

    The paper's Figures 4 and 8. `table` has the columns label, fraction, seed (a split each), and
    the metrics, which `labels` selects and labels; `what` is the label of the fraction. The value
    of the label `reference` at the smallest fraction is subtracted, split by split.
    """
    drawn = table if reference is None else relative(table, reference, list(labels))
    figure, panels = style.row_of_panels(len(labels), (5 * len(labels), 4.2))
    names = list(dict.fromkeys(drawn["label"]))
    for axes, (metric, label) in zip(panels, labels.items(), strict=True):
        for i, name in enumerate(names):
            values = drawn[drawn["label"] == name].groupby("fraction")[metric]
            mean, sd = values.mean().dropna(), values.std()
            if mean.empty:
                continue
            place = 100 * mean.index.to_numpy() + 0.7 * (i - (len(names) - 1) / 2)
            line: dict[str, Any] = {"label": name, "markersize": 4, "linewidth": 1.2, "capsize": 2}
            axes.errorbar(place, mean, sd[mean.index].fillna(0), **line, **style.look(i))
        axes.set(xlabel=f"{what}, %", ylabel=label if reference is None else f"change of {label}")
        axes.set_xticks(sorted({100 * value for value in drawn["fraction"]}))
        style.bare(axes)
    if reference is not None:
        share = table["fraction"].min()
        figure.suptitle(f"relative to {reference}, with {share:.0%} of them", fontsize=10)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def relative(table: pd.DataFrame, reference: str, metrics: list[str]) -> pd.DataFrame:
    """Return scores minus the reference's at the smallest fraction of the same split."""
    smallest = table["fraction"].min()
    base = table[(table["label"] == reference) & (table["fraction"] == smallest)]
    base = base.set_index("seed")[metrics]
    scores = table[table["seed"].isin(base.index)].copy()
    scores[metrics] -= base.loc[scores["seed"]].to_numpy()
    return scores


def calibration_curve(
    table: pd.DataFrame,
    *,
    what: str = "share of intervals that cover",
    ax: Axes | None = None,
) -> Axes:
    """Draw observed against expected shares: calibrated ones lie on the diagonal.

    `table` has the columns expected (the level of an interval, an lfsr, a quantile) and observed
    (the share that covers, that is wrong, that is below), both from 0 to 1; label, if there are
    several curves; lower and upper, if observed shares have intervals. `what` is the label of the
    observed shares.
    """
    table = renamed_column(table, "found", "observed")
    style.need(table, ("expected", "observed"), "calibration")
    ax = style.axes_of(ax, (4.4, 4.2))
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    label = table["label"] if "label" in table else pd.Series("", table.index)
    for i, (name, rows) in enumerate(table.groupby(label, sort=False)):
        rows = rows.sort_values("expected", kind="stable")
        if {"lower", "upper"} <= set(rows):
            shade: dict[str, Any] = {"color": style.look(i)["color"], "alpha": 0.2, "lw": 0}
            ax.fill_between(rows["expected"], rows["lower"], rows["upper"], **shade)
        curve: dict[str, Any] = {"label": str(name) or None, "ms": 4.5, **style.look(i)}
        ax.plot(rows["expected"], rows["observed"], **curve)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if "label" in table:
        ax.legend(fontsize=8)
    return style.finish(ax, xlabel="expected share", ylabel=f"observed: {what}")


def stability_matrix(
    stability: pd.DataFrame, metric: str = "effect_pearson", *, ax: Axes | None = None
) -> Axes:
    """Draw one measure of agreement for all pairs of models.

    `stability` is as `samsvae.stability` returns it; `metric` is one of its columns, such as
    "mask_jaccard", "shift_agreement", "state_agreement" or "effect_pearson".
    """
    style.need(stability, ("first", "second"), "stability")
    measures = [str(name) for name in stability.columns if name not in ("first", "second")]
    if metric not in measures:
        raise unknown("measure of the table:", metric, measures)
    names = list(pd.unique(pd.concat([stability["first"], stability["second"]])))
    n, wide = len(names), stability.pivot(index="first", columns="second", values=metric)
    wide = wide.reindex(index=names, columns=names)
    matrix = wide.combine_first(wide.T).loc[names, names].to_numpy(float)
    ax = style.axes_of(ax, (2.6 + 0.55 * n, 1.8 + 0.55 * n))
    image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
        colour = "white" if matrix[i, j] < 0.6 else "black"
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
        ax.text(j, i, f"{matrix[i, j]:.2f}", **text)
    labels = [style.short(name) for name in names]
    ax.set_xticks(range(n), labels, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(n), labels, fontsize=8)
    ax.set(xlabel="model", ylabel="model")
    style.colour_bar(ax, image, f"{metric.replace('_', ' ')} (1: identical)", shrink=0.8)
    chance = f"{metric}_chance"
    if chance in stability:
        ax.set_title(f"by chance {stability[chance].mean():.2f}", fontsize=9)
    return ax


_DECADE = 10
"""Ratio of the largest to the smallest number of cells above which the axis is logarithmic."""


@renamed_arguments(rate="fdr")
def screen_power(
    table: pd.DataFrame, *, fdr: float = 0.05, n_named: int = 8, ax: Axes | None = None
) -> Axes:
    """Draw how many genes each condition (or sgRNA) is found to change, against its cells.

    Conditions with many cells that change few genes have small effects; if all conditions with few
    cells change few genes, the screen has too few cells to tell. The colour is the size of the
    effect. `table` is as `samsvae.discoveries` returns it: condition, estimate, q_value, n_cells;
    in a table by sgRNA each sgRNA of a condition is a point. Genes with a q_value below `fdr` are
    counted; the conditions that change most, `n_named` of them, are named where there is room.
    """
    style.need(table, ("condition", "estimate", "q_value", "n_cells"), "discoveries")
    keys = [name for name in ("condition", "sgrna") if name in table.columns]
    columns = {
        "cells": table["n_cells"],
        "genes": table["q_value"] < fdr,
        "square": np.square(table["estimate"]),
    }
    groups = table[keys].astype(str).assign(**columns).groupby(keys, sort=False)
    points = groups.agg({"cells": "first", "genes": "sum", "square": "mean"})
    ax = style.axes_of(ax, (5.6, 4))
    cells, genes = points["cells"].to_numpy(int), points["genes"].to_numpy(int)
    size = np.sqrt(points["square"].to_numpy(float))
    dots = ax.scatter(cells, genes, c=size, s=22, cmap="cividis", edgecolor="black", lw=0.3)
    if cells.max() > _DECADE * cells[cells > 0].min(initial=cells.max()):
        ax.set_xscale("symlog", linthresh=1)  # a condition that was not measured has 0 cells
        ax.set_xlim(-0.1 if (cells == 0).any() else max(cells.min() / 1.5, 0.5), 1.5 * cells.max())
    else:
        ax.set_xlim(-0.03 * cells.max() - 0.5, 1.1 * cells.max() + 0.5)
    kind = "sgRNA" if "sgrna" in keys else "condition"
    style.colour_bar(ax, dots, style.with_unit("root mean square effect", table))
    label = f"genes found to change (q below {fdr:g})"
    style.finish(ax, xlabel=f"cells of the {kind}", ylabel=label)
    top = np.argsort(-genes, kind="stable")[:n_named]
    names = points.index.get_level_values(kind.lower()).astype(str)
    style.name_points(ax, cells[top], genes[top], list(names[top]))
    return ax


_HALF_WIDTH = 1.645
"""Half the width of a 90 % interval, in standard errors."""


def sgrnas_of_target(
    strengths: pd.DataFrame, condition: str | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw the effect of each sgRNA as a multiple of the effect of the target's other sgRNAs.

    0: no effect, 1: the same effect as the others. `strengths` is `samsvae.sgrnas(screen).sgrnas`:
    sgrna, n_cells, strength, strength_se.
    """
    style.need(strengths, ("sgrna", "n_cells", "strength", "strength_se"), "sgRNAs")
    rows = style.rows_of(strengths, condition).sort_values("strength", kind="stable")
    ax = style.axes_of(ax, (5, 1.3 + 0.3 * len(rows)))
    place, half = np.arange(len(rows)), _HALF_WIDTH * rows["strength_se"]
    value = rows["strength"]
    ax.hlines(place, value - half, value + half, color="#888888", linewidth=2)
    ax.plot(value, place, "o", color=style.COLOURS[0])
    for x, dashes in ((0, "-"), (1, "--")):
        ax.axvline(x, color="black", linewidth=0.7, linestyle=dashes)
    labels = [f"{style.short(row.sgrna)} ({row.n_cells:,})" for row in rows.itertuples()]
    ax.set_yticks(place, labels, fontsize=8)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    label = "strength, multiple of the others' effect\n(line: 90 % interval)"
    return style.finish(ax, condition, xlabel=label, ylabel="sgRNA (cells)")
