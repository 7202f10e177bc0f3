"""Figures: one contract for all, and what each shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from helpers.plots import RESULT_PLOTS
from samsvae import plotting
from samsvae.plotting.fractions import relative

RNG = np.random.default_rng(0)
NAMES = [f"P{i}" for i in range(9)]
MASK = pd.DataFrame(RNG.random((9, 5)), NAMES, [f"z{i}" for i in range(5)])
EMBEDDING = pd.DataFrame(RNG.standard_normal((9, 5)), NAMES, MASK.columns)
GROUPS = pd.Series(["one", "two", "one", "two", "three"], NAMES[:5])
GENES = pd.DataFrame(RNG.standard_normal((9, 30)), NAMES, [f"g{i}" for i in range(30)])
CURVES = pd.DataFrame(
    [
        {
            "label": label,
            "fraction": f,
            "seed": seed,
            "iwelbo": 10 * seed + f + i,
            "ate_pearson": 0.1 * f + 0.01 * seed,
        }
        for i, label in enumerate(("a", "b"))
        for f in (0.0, 0.5, 1.0)
        for seed in (0, 1)
    ]
)
PAIRS = pd.DataFrame(
    {
        "condition": np.repeat(["A+B", "A+C"], 20),
        "gene": [f"g{i}" for i in range(20)] * 2,
        "observed": RNG.standard_normal(40),
        "predicted": RNG.standard_normal(40),
        "additive": RNG.standard_normal(40),
    }
)
PLOTS: dict[str, Callable[[], Figure]] = {
    "grouped_shifts": lambda: plotting.grouped_shifts(MASK, EMBEDDING, GROUPS),
    "nothing is in use": lambda: plotting.grouped_shifts(0 * MASK, EMBEDDING, GROUPS),
    "gene_projection": lambda: plotting.gene_projection(GENES, GENES, GROUPS),
    "gene_projection without groups": lambda: plotting.gene_projection(GENES, GENES),
    "fraction_curves": lambda: plotting.fraction_curves(CURVES, reference="a"),
    "clustered_shifts": lambda: plotting.clustered_shifts(MASK * EMBEDDING, GROUPS),
    "clustered_shifts of one dimension": lambda: plotting.clustered_shifts(MASK[["z0"]]),
    "shift_map": lambda: plotting.shift_map(EMBEDDING.iloc[:, :2], GROUPS),
    "shift_map without groups": lambda: plotting.shift_map(EMBEDDING.iloc[:, :2]),
    "nonadditive_genes": lambda: plotting.nonadditive_genes(PAIRS, n_genes=6),
}


@pytest.fixture(autouse=True)
def agg() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.mark.parametrize("name", PLOTS)
def test_a_figure_is_drawn_whole_and_changes_nothing(name: str) -> None:
    tables = (MASK, EMBEDDING, GROUPS, GENES, CURVES, PAIRS)
    before = [table.copy() for table in tables]
    figure = PLOTS[name]()
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    assert any(axes.has_data() for axes in figure.axes)
    for table, was in zip(tables, before, strict=True):
        assert table.equals(was)


def test_every_public_plot_is_drawn() -> None:
    assert {name.split()[0] for name in (*PLOTS, *RESULT_PLOTS)} >= set(plotting.__all__)


def test_curves_are_means_relative_to_the_reference_of_the_same_split() -> None:
    shown = relative(CURVES, "a", ["iwelbo", "ate_pearson"])
    first = shown[(shown["label"] == "a") & (shown["fraction"] == 0)]
    assert (first["iwelbo"] == 0).all()  # though the splits lie 10 nats apart
    b = shown[(shown["label"] == "b") & (shown["fraction"] == 1.0)]
    np.testing.assert_allclose(b["iwelbo"], 2.0)
    figure = plotting.fraction_curves(CURVES, reference="a")
    bars = figure.axes[0].containers[1]
    np.testing.assert_allclose(np.asarray(bars[0].get_ydata(orig=False), float), [1, 1.5, 2])


def test_the_least_additive_genes_are_shown() -> None:
    figure = plotting.nonadditive_genes(PAIRS, n_genes=3)
    first = PAIRS[PAIRS["condition"] == "A+B"]
    beyond = (first["observed"] - first["additive"]).abs()
    wanted = set(first.loc[beyond.nlargest(3).index, "gene"])
    assert {text.get_text() for text in figure.axes[0].get_yticklabels()} == wanted


def test_perturbations_come_by_pathway_and_dimensions_by_use() -> None:
    mask = pd.DataFrame(0.1, NAMES, ["z0", "z1", "z2"])
    mask.loc[["P0", "P2"], "z1"] = 0.9
    mask.loc["P1", "z2"] = 0.9
    figure = plotting.grouped_shifts(mask, mask, GROUPS)
    image = np.asarray(figure.axes[0].images[0].get_array())
    order = ["P0", "P2", "P4", "P1", "P3"]  # one, three, two
    np.testing.assert_allclose(image, mask.loc[order, ["z1", "z2"]])
