"""Labels state the scale of the table that is drawn, also after a CSV file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

import samsvae
from helpers.plots import doses
from helpers.report_tables import effects, inclusion, scores
from samsvae import InputError, plotting
from samsvae.plotting.style import UNITS, with_unit
from samsvae.storage.tables import read_csv, write_csv

WIDE = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 12)), list("ABCD"))
WIDE.columns = [f"g{i}" for i in range(12)]
PAIRS = effects().assign(additive=0.0).rename(columns={"model": "predicted"})
LABELS: dict[str, tuple[pd.DataFrame, Callable[[pd.DataFrame], list[str]]]] = {
    "effect_scatter": (effects(), lambda t: both(plotting.effect_scatter(t, "A"))),
    "top_effects": (effects(), lambda t: [plotting.top_effects(t, "A").get_xlabel()]),
    "volcano": (effects(), lambda t: [plotting.volcano(t, "A").get_xlabel()]),
    "combination_bars": (
        effects(),
        lambda t: [plotting.combination_bars(t, "A+B", ["A", "B"]).get_ylabel()],
    ),
    "screen_power": (effects(), lambda t: [colour_bar(plotting.screen_power(t))]),
    "metric_strip": (
        scores(),
        lambda t: [plotting.metric_strip(t, ["rmse"]).axes[0].get_xlabel()],
    ),
    "nonadditive_genes": (
        PAIRS,
        lambda t: [one.get_xlabel() for one in plotting.nonadditive_genes(t).axes],
    ),
}
"""Plots of effects: a table, and its labels with a unit."""


@pytest.fixture(autouse=True)
def agg() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


def both(ax: Axes) -> list[str]:
    return [ax.get_xlabel(), ax.get_ylabel()]


def colour_bar(ax: Axes) -> str:
    figure = ax.get_figure()
    assert figure is not None
    return figure.axes[-1].get_ylabel()


@pytest.mark.parametrize("scale", ["log", "normalized", "mean"])
@pytest.mark.parametrize("plot", LABELS)
def test_a_label_has_the_unit_of_the_table_and_keeps_it_in_a_csv_file(
    plot: str, scale: str, tmp_path: Path
) -> None:
    table, labels = LABELS[plot]
    table = table.assign(scale=scale)
    write_csv(tmp_path / "t.csv", table)
    for one in (table, read_csv(tmp_path / "t.csv"), pd.read_csv(tmp_path / "t.csv")):
        assert all(label.endswith(f", {UNITS[scale]}") for label in labels(one))


@pytest.mark.parametrize("plot", LABELS)
def test_no_unit_is_claimed_of_a_table_without_a_scale(plot: str) -> None:
    table, labels = LABELS[plot]
    assert not any("log2" in label or "counts" in label for label in labels(table))


def test_tables_of_several_scales_are_refused() -> None:
    table = effects().assign(scale=lambda t: np.where(t["gene"] == "g0", "log", "mean"))
    with pytest.raises(InputError, match="several scales, 'mean', 'log'"):
        plotting.volcano(table, "A")


def test_plots_of_other_objects_have_units_too() -> None:
    curve = doses()
    curve.uns["scale"] = "normalized"
    assert plotting.dose_curve(curve).get_ylabel() == "effect, counts per 10,000"
    figure = plotting.gene_projection(WIDE, WIDE, genes=("g0", "g1"), scale="normalized")
    assert figure.axes[0].get_xlabel() == "g0, counts per 10,000"
    assert figure.axes[0].get_ylabel() == "g1, counts per 10,000"
    assert plotting.gene_projection(WIDE, WIDE).axes[0].get_xlabel().count(",") == 0
    figure = plotting.mask_heatmap(inclusion(list("ABC")), effect_size=pd.Series(1.0, list("ABC")))
    assert "effect size" in [axes.get_xlabel() for axes in figure.axes]


def test_discoveries_and_scores_say_their_scale(screen: samsvae.Screen, trained: Any) -> None:
    few = {"n_particles": 4, "progress": False}
    table = samsvae.discoveries(trained, screen, scale="normalized", **few)
    assert with_unit("effect", table) == "effect, counts per 10,000"
    (pairs,) = samsvae.combinations(trained, scale="normalized", **few)
    assert with_unit("effect", pairs) == "effect, counts per 10,000"


def by_sgrna() -> pd.DataFrame:
    """Return discoveries by sgRNA: two sgRNAs of A, one of them of B, too."""
    rows = [("A", "s1", 40, 0.01), ("A", "s2", 5, 0.5), ("B", "s2", 70, 0.02)]
    return pd.DataFrame(
        {
            "condition": condition,
            "sgrna": sgrna,
            "gene": gene,
            "estimate": n_cells / 100,
            "lower": 0.0,
            "upper": 1.0,
            "lfsr": q_value,
            "q_value": q_value,
            "n_cells": n_cells,
            "model": 0.0,
            "observed": 0.0,
        }
        for condition, sgrna, n_cells, q_value in rows
        for gene in ("g0", "g1", "g2")
    )


def test_power_by_sgrna_has_a_point_for_each_sgrna_of_a_condition() -> None:
    axes = plotting.screen_power(by_sgrna())
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_array_equal(points, [[40, 3], [5, 0], [70, 3]])
    np.testing.assert_allclose(axes.collections[0].get_array(), [0.4, 0.05, 0.7])
    assert axes.get_xlabel() == "cells of the sgRNA"


def test_plots_of_one_condition_refuse_several_sgrnas() -> None:
    for draw in (plotting.effect_scatter, plotting.top_effects, plotting.volcano):
        with pytest.raises(InputError, match="has 2 sgRNAs, 's1', 's2': keep the rows of one"):
            draw(by_sgrna(), "A")
        draw(by_sgrna(), "B")


def test_former_names_are_understood() -> None:
    with pytest.warns(DeprecationWarning, match="rate of volcano is now fdr"):
        plotting.volcano(effects(), "A", rate=0.1)
    with pytest.warns(DeprecationWarning, match="rate of screen_power is now fdr"):
        plotting.screen_power(effects(), rate=0.1)
    table = pd.DataFrame({"expected": [0.5, 0.9], "found": [0.4, 0.8]})
    with pytest.warns(DeprecationWarning, match="the column found is now observed"):
        plotting.calibration_curve(table)
