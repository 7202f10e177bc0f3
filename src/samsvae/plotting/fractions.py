"""Scores against the fraction of combinations that are trained on (Figures 4 and 8)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samsvae.plotting.style import MARKERS, bare, colours

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
