"""How far models of different seeds agree.

Scores of models, baselines and the ceiling: a strip for each metric.

Scores against the fraction of combinations that are trained on (Figures 4 and 8).

How training went: the ELBO, its terms, and the masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samsvae.errors import unknown
from samsvae.plotting.style import COLOURS, MARKERS, axes_of, bare, colours, need, short
from samsvae.types import ALL_CONDITIONS


def stability_matrix(
    stability: pd.DataFrame, metric: str = "effect_pearson", *, ax: Axes | None = None
) -> Axes:
    """Draw one measure of agreement for every pair of models.

    Parameters
    ----------
    stability
        As `samsvae.stability` returns it: first, second, and the measures.
    metric
        Which: "mask_jaccard", "shift_agreement", "state_agreement", "effect_pearson" or another
        of its columns.
    ax
        Where to draw.

    Raises
    ------
    InputError
        If there is no such measure.
    """
    need(stability, ("first", "second"), "stability")
    measures = [str(name) for name in stability.columns if name not in ("first", "second")]
    if metric not in measures:
        raise unknown("measure of the table:", metric, measures)
    names = list(pd.unique(pd.concat([stability["first"], stability["second"]])))
    place = {name: i for i, name in enumerate(names)}
    n = len(names)
    matrix = np.full((n, n), np.nan)
    for row in stability.itertuples():
        i, j = place[row.first], place[row.second]
        matrix[i, j] = matrix[j, i] = getattr(row, metric)
    ax = axes_of(ax, (2.6 + 0.55 * n, 1.8 + 0.55 * n))
    image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
        dark = matrix[i, j] < 0.6
        ax.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=8,
                color="white" if dark else "black")  # fmt: skip
    labels = [short(name) for name in names]
    ax.set_xticks(range(n), labels, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(n), labels, fontsize=8)
    ax.set(xlabel="model", ylabel="model")
    figure = ax.get_figure()
    if figure is not None:
        label = f"{metric.replace('_', ' ')} (1: as one)"
        figure.colorbar(image, ax=ax, shrink=0.8, label=label)
    chance = f"{metric}_chance"
    if chance in stability:
        ax.set_title(f"by chance {stability[chance].mean():.2f}", fontsize=9)
    return ax


_UNITS = {"iwelbo": "nats per cell", "rmse": "log2", "mae": "log2", "interaction_rmse": "log2"}
_DUPLICATE = "duplicate"


def metric_strip(
    scores: pd.DataFrame,
    metrics: Sequence[str] = ("ate_pearson", "ate_r2", "pearson_from_perturbation_mean", "rmse"),
    *,
    split: str = "test",
) -> Figure:
    """Draw the scores of all predictors side by side, a panel for each metric.

    The line is the technical duplicate: half of the cells predicts the other half.

    Parameters
    ----------
    scores
        As `samsvae.evaluate` returns it: predictor, split, metric, value; lower and upper, if
        there are intervals; of several conditions the rows of "(all)" are taken.
    metrics
        Which, in this order.
    split
        Whose cells.

    Raises
    ------
    InputError
        If a metric or the split is not in the table.
    """
    need(scores, ("predictor", "split", "metric", "value"), "scores")
    shown = scores[scores["condition"] == ALL_CONDITIONS] if "condition" in scores else scores
    for what, name, known in (
        ("split", split, pd.unique(shown["split"])),
        *(("metric", one, pd.unique(shown["metric"])) for one in metrics),
    ):
        if name not in known:
            raise unknown(f"{what} of the table:", name, [str(one) for one in known])
    shown = shown[shown["split"] == split]
    names = [str(one) for one in pd.unique(shown["predictor"]) if one != _DUPLICATE]
    figure, panels = plt.subplots(
        1,
        len(metrics),
        figsize=(1.6 + 2.6 * len(metrics), 1.4 + 0.28 * len(names)),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    place = np.arange(len(names))
    for axes, metric in zip(panels[0], metrics, strict=True):
        own = shown[shown["metric"] == metric].drop_duplicates("predictor").set_index("predictor")
        row = own.reindex(names)
        if {"lower", "upper"} <= set(row):
            axes.hlines(place, row["lower"], row["upper"], color="#aaaaaa", linewidth=2)
        middle = axes.get_yaxis_transform()
        for y, value in enumerate(row["value"]):
            axes.plot(value, y, MARKERS[y % len(MARKERS)], color=COLOURS[y % len(COLOURS)], ms=6)
            if np.isnan(value):
                axes.text(
                    0.5, y, "no score", ha="center", va="center", fontsize=7, transform=middle
                )
        if _DUPLICATE in own.index and np.isfinite(own.loc[_DUPLICATE, "value"]):
            axes.axvline(own.loc[_DUPLICATE, "value"], color="black", linestyle=":", linewidth=1.2)
        unit = _UNITS.get(metric)
        axes.set_xlabel(metric.replace("_", " ") + (f", {unit}" if unit else ""), fontsize=9)
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        bare(axes)
    panels[0][0].set_yticks(place, names, fontsize=8)
    panels[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(f"{split} cells; dotted: technical duplicate", fontsize=9)
    return figure


LABELS = {
    "iwelbo": "test IWELBO, nats per cell",
    "ate_pearson": "ATE-Pearson",
}


def fraction_curves(
    table: pd.DataFrame,
    *,
    reference: str | None = None,
    what: str = "share of combinations trained on",
    labels: Mapping[str, str] = LABELS,
) -> Figure:
    """Draw mean and standard deviation over splits against the fraction.

    Parameters
    ----------
    table
        Columns label, fraction, seed, and the metrics. Splits are the seeds.
    reference
        Label whose value at the smallest fraction is taken off, split by split.
    what
        Of the fraction.
    labels
        Of the metrics that are drawn.
    """
    shown = table if reference is None else relative(table, reference, list(labels))
    figure, axes = plt.subplots(
        1, len(labels), figsize=(5 * len(labels), 4.2), layout="constrained", squeeze=False
    )
    names, least = list(dict.fromkeys(shown["label"])), table["fraction"].min()
    colour = colours(names)
    for one, (metric, label) in zip(axes[0], labels.items(), strict=True):
        for i, name in enumerate(names):
            of_all = shown[shown["label"] == name].groupby("fraction")[metric]
            mean, sd = of_all.mean().dropna(), of_all.std()
            if mean.empty:
                continue
            place = 100 * mean.index.to_numpy() + 0.7 * (i - (len(names) - 1) / 2)
            one.errorbar(
                place,
                mean,
                sd[mean.index].fillna(0),
                color=colour[name],
                label=name,
                marker=MARKERS[i % len(MARKERS)],
                markersize=4,
                linewidth=1.2,
                capsize=2,
            )
        one.set(xlabel=f"{what}, %", ylabel=label if reference is None else f"change of {label}")
        one.set_xticks(sorted({100 * value for value in shown["fraction"]}))
        bare(one)
    if reference is not None:
        figure.suptitle(f"against {reference}, with {least:.0%} of them", fontsize=10)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure


def relative(table: pd.DataFrame, reference: str, metrics: list[str]) -> pd.DataFrame:
    """Return scores minus the reference's at the smallest fraction of the same split."""
    least = table["fraction"].min()
    base = table[(table["label"] == reference) & (table["fraction"] == least)]
    base = base.set_index("seed")[metrics]
    shown = table[table["seed"].isin(base.index)].copy()
    for metric in metrics:
        shown[metric] = shown[metric] - shown["seed"].map(base[metric])
    return shown


_TERMS = ("likelihood", "basal", "mask_prob", "mask", "embedding", "dose_response")


def training_history(history: pd.DataFrame) -> Figure:
    """Draw the history of a training: ELBOs, terms of the ELBO, mask sparsity, against the step.

    A broken line marks the alignment, where training goes on with masks: validation ELBOs before
    and after are of different models. A ring marks the model that was kept.

    Parameters
    ----------
    history
        As `model.history`: step, elbo, valid_elbo, and what else there is.

    Returns
    -------
    A panel for the ELBOs, one for each term that is not 0 throughout, and one for the share of mask
    entries that are not in use.
    """
    need(history, ("step", "elbo"), "the history")
    terms = [name for name in _TERMS if name in history and history[name].fillna(0).any()]
    sparse = "mask_sparsity" in history and bool(history["mask_sparsity"].notna().any())
    n = 1 + len(terms) + sparse
    n_columns = min(3, n)
    n_rows = -(-n // n_columns)
    figure, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(4.2 * n_columns, 2.9 * n_rows),
        layout="constrained",
        squeeze=False,
    )
    panels = list(grid.ravel())
    _elbos(panels[0], history)
    for axes, name, colour in zip(panels[1:], terms, COLOURS[2:], strict=False):
        axes.plot(history["step"], history[name], color=colour, marker="o", markersize=3)
        axes.set(title=name.replace("_", " "), ylabel="nats per cell")
    if sparse:
        axes = panels[n - 1]
        known = history.dropna(subset="mask_sparsity")
        axes.plot(known["step"], known["mask_sparsity"], color="black", marker="o", markersize=3)
        low, high = axes.get_ylim()
        axes.set(title="mask entries not in use", ylabel="share", ylim=(low, min(high, 1.005)))
    turn = _alignment(history)
    for axes in panels[:n]:
        axes.set_xlabel("step")
        bare(axes)
        if turn is not None:
            axes.axvline(turn, color="#666666", linestyle="--", linewidth=1, label="masks begin")
    panels[0].legend(fontsize=8, frameon=False)
    for axes in panels[n:]:
        axes.remove()
    return figure


def _elbos(axes: Axes, history: pd.DataFrame) -> None:
    shown = [("elbo", "training cells", COLOURS[0])]
    if "valid_elbo" in history and history["valid_elbo"].notna().any():
        shown.append(("valid_elbo", "validation cells", COLOURS[1]))
    for i, (name, label, colour) in enumerate(shown):
        axes.plot(
            history["step"],
            history[name],
            color=colour,
            label=label,
            marker=MARKERS[i],
            markersize=3,
        )
    if "is_best" in history and history["is_best"].any() and len(shown) > 1:
        best = history[history["is_best"]].iloc[-1]
        axes.plot(
            best["step"], best["valid_elbo"], "o", mfc="none", mec="black", ms=9, label="kept"
        )
    # The first steps lie far below: what is looked at is how it ends.
    later = history[history["step"] >= 0.15 * history["step"].max()]
    values = later[[name for name, _, _ in shown]].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    room = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)
    axes.set(title="ELBO", ylabel="nats per cell")


def _alignment(history: pd.DataFrame) -> float | None:
    """Return the step at which masks were found; None: not at all, or before the first row."""
    if "is_aligned" not in history:
        return None
    aligned = history["is_aligned"].to_numpy(bool)
    if aligned.all() or not aligned.any():
        return None
    first = int(np.argmax(aligned))
    return float(history["step"].iloc[first - 1 : first + 1].mean())
