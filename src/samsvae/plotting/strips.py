"""Scores of models, baselines and the ceiling: a strip for each metric."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samsvae.errors import unknown
from samsvae.plotting.style import COLOURS, MARKERS, bare, need

_UNITS = {"iwelbo": "nats per cell", "rmse": "log2", "mae": "log2", "interaction_rmse": "log2"}
_DUPLICATE, _POOLED = "duplicate", "(all)"


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
    shown = scores[scores["condition"] == _POOLED] if "condition" in scores else scores
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
