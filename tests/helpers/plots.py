"""A drawing of each plot of results, and the tables it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from helpers.report_tables import CONDITIONS, effects, history, inclusion, mechanisms, scores
from samsvae import plotting

NAMES = ["A", "B", "C", "a long name " * 9, "$x_1$", "F"]


class Specimen(NamedTuple):
    """One plot with the table it draws."""

    table: Any
    draw: Callable[..., Any]
    """Of the table and, where it takes them, axes."""
    needs: str
    """A column that it cannot do without."""
    takes_axes: bool = True


def doses() -> AnnData:
    """Return what `model.dose_response` returns."""
    dose = np.linspace(0, 2, 5)
    ate = np.outer(dose / (dose + 0.5), np.arange(8) - 3.0)
    return AnnData(
        ate,
        obs=pd.DataFrame({"dose": dose}, index=list("01234")),
        var=pd.DataFrame(index=[f"g{i}" for i in range(8)]),
        layers={"lower": ate - 0.1, "upper": ate + 0.2},
        uns={"scale": "log"},
    )


STRENGTHS = pd.DataFrame(
    {
        "condition": ["A", "A", "A", "B"],
        "sgrna": ["A_1", "A_2", "A_3", "B_1"],
        "n_cells": [60, 1, 40, 100],
        "strength": [1.1, 0.1, np.nan, 0.9],
        "strength_se": [0.1, np.nan, np.nan, 0.1],
    }
)
STABILITY = pd.DataFrame(
    {
        "first": ["s0", "s0", "s1"],
        "second": ["s1", "s2", "s2"],
        "mask_jaccard": [0.5, 0.6, 0.7],
        "mask_jaccard_chance": [0.1, 0.1, 0.1],
        "effect_pearson": [0.9, 0.95, np.nan],
    }
)
CALIBRATION = pd.DataFrame(
    {
        "expected": [0.9, 0.5, 0.5, 0.9],
        "observed": [0.88, 0.52, 0.3, 0.6],
        "lower": [0.8, 0.45, 0.2, 0.5],
        "upper": [0.95, 0.6, 0.4, 0.7],
        "label": ["model", "model", "other", "other"],
    }
)
POINTS = pd.DataFrame(
    np.random.default_rng(0).normal(0, 1, (60, 2)),
    [f"cell{i}" for i in range(60)],
    ["UMAP 1", "UMAP 2"],
)
KINDS = pd.Series(
    [f"condition {i}" for i in np.repeat(np.arange(15), np.arange(15))][:57],
    POINTS.index[:57],
    name="condition",
)
"""Of the first 57 cells: 11 conditions, of 1 to 10 cells, and 2 of an eleventh."""
SCORES = pd.concat(
    [
        scores().assign(condition="(all)"),
        scores().assign(condition="A", value=99.0),
        scores().assign(condition="(all)", split="valid", value=88.0),
    ]
)
RESULT_PLOTS: dict[str, Specimen] = {
    "training_history": Specimen(history(), plotting.training_history, "elbo", takes_axes=False),
    "mask_heatmap": Specimen(
        inclusion(NAMES),
        lambda table: plotting.mask_heatmap(
            table,
            groups=pd.Series(["one", "two"], ["A", "C"]),
            effect_size=pd.Series(1.0, NAMES),
        ),
        "shift",
        takes_axes=False,
    ),
    "effect_scatter": Specimen(
        effects(), lambda table, **on: plotting.effect_scatter(table, "A", **on), "observed"
    ),
    "volcano": Specimen(effects(), lambda table, **on: plotting.volcano(table, "A", **on), "lfsr"),
    "top_effects": Specimen(
        effects(), lambda table, **on: plotting.top_effects(table, "A", **on), "lower"
    ),
    "combination_bars": Specimen(
        effects(),
        lambda table, **on: plotting.combination_bars(table, "A+B", ["A", "B"], **on),
        "model",
    ),
    "mechanism_card": Specimen(
        mechanisms(CONDITIONS),
        lambda table: plotting.mechanism_card(table, "z0"),
        "shifts",
        takes_axes=False,
    ),
    "metric_strip": Specimen(
        SCORES,
        lambda table: plotting.metric_strip(table, ["ate_pearson", "rmse", "coverage_90"]),
        "value",
        takes_axes=False,
    ),
    "calibration_curve": Specimen(CALIBRATION, plotting.calibration_curve, "observed"),
    "cell_map": Specimen(
        POINTS, lambda table, **on: plotting.cell_map(table, KINDS, **on), "UMAP 2"
    ),
    "shift_map": Specimen(
        POINTS,
        lambda table, **on: plotting.shift_map(table, KINDS[::3], **on),
        "UMAP 2",
    ),
    "stability_matrix": Specimen(STABILITY, plotting.stability_matrix, "first"),
    "sgrnas_of_target": Specimen(
        STRENGTHS, lambda table, **on: plotting.sgrnas_of_target(table, "A", **on), "strength"
    ),
    "screen_power": Specimen(effects(), plotting.screen_power, "q_value"),
    "dose_curve": Specimen(doses(), plotting.dose_curve, "dose"),
}


def label_of(axes: Axes) -> list[str]:
    """Return the names along the vertical axis."""
    return [text.get_text() for text in axes.get_yticklabels()]
