"""Figures: one contract for all, and what each shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import samsvae
from helpers.plots import RESULT_PLOTS
from samsvae import plotting
from samsvae.plotting.scores import relative

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
    "shift_similarity": lambda: plotting.shift_similarity(MASK * EMBEDDING, GROUPS),
    "shift_similarity without groups": lambda: plotting.shift_similarity(MASK * EMBEDDING),
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


LONG = "a long name " * 20
ONE = EMBEDDING.iloc[:1]
HOLED = EMBEDDING.mask(RNG.random(EMBEDDING.shape) < 0.3)
RENAMED = EMBEDDING.rename(index={"P0": LONG, "P1": "$x_1$"}, columns={"z0": LONG})
ODD: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "grouped_shifts": lambda t: plotting.grouped_shifts(
        t.notna() * 0.9, t, pd.Series("one", t.index)
    ),
    "gene_projection": lambda t: plotting.gene_projection(
        t, t, pd.Series("one", t.index), (str(t.columns[1]), str(t.columns[2]))
    ),
    "clustered_shifts": lambda t: plotting.clustered_shifts(t, pd.Series(LONG, t.index)),
    "shift_similarity": lambda t: plotting.shift_similarity(t, pd.Series(LONG, t.index)),
}


@pytest.mark.parametrize("table", [ONE, HOLED, RENAMED], ids=["one", "holed", "long names"])
@pytest.mark.parametrize("name", ODD)
def test_odd_tables_are_drawn(name: str, table: pd.DataFrame) -> None:
    figure = ODD[name](table)
    figure.canvas.draw()
    assert max(figure.get_size_inches()) < 20
    texts = [text for axes in figure.axes for text in axes.get_yticklabels()]
    assert all(len(text.get_text()) < 40 for text in texts)


def order_of(figure: Figure) -> list[str]:
    """Return the names along the last axes with images, from above."""
    heat = next(axes for axes in figure.axes if axes.images)
    return [text.get_text() for text in heat.get_yticklabels()]


def test_similarity_is_the_cosine_of_every_pair() -> None:
    figure = plotting.shift_similarity(EMBEDDING)
    heat = next(axes for axes in figure.axes if axes.images)
    rows = order_of(figure)
    assert sorted(rows) == NAMES
    unit = EMBEDDING.div(np.linalg.norm(EMBEDDING, axis=1), axis=0).loc[rows]
    np.testing.assert_allclose(heat.images[0].get_array(), unit @ unit.T, atol=1e-12)
    low, high = heat.get_ylim()
    assert low > high  # the first row is above, as in the image
    assert heat.images[0].origin == "lower"


def test_those_alike_stand_side_by_side_and_those_without_a_direction_last() -> None:
    shift = pd.DataFrame(0.0, NAMES, MASK.columns)
    shift.loc[["P0", "P4", "P8"], "z0"] = [1.0, 5.0, 2.0]
    shift.loc[["P2", "P6"], "z3"] = [1.0, -1.0]
    shift.loc["P7"] = np.nan
    figure = plotting.shift_similarity(shift)
    rows = order_of(figure)
    first = rows.index("P0")
    assert {"P0", "P4", "P8"} in [set(rows[i : i + 3]) for i in (first - 2, first - 1, first)]
    assert set(rows[-4:]) == {"P1", "P3", "P5", "P7"}
    heat = next(axes for axes in figure.axes if axes.images)
    values = np.ma.filled(heat.images[0].get_array().astype(float), np.nan)
    assert np.isnan(values[-4:]).all()
    assert values[rows.index("P2"), rows.index("P6")] == -1
    assert "4 without a direction" in heat.get_xlabel()


def test_seven_hundred_perturbations_are_all_compared() -> None:
    many = pd.DataFrame(RNG.standard_normal((700, 8)), [f"P{i}" for i in range(700)])
    figure = plotting.shift_similarity(many, pd.Series("one", many.index[:300]))
    heat = next(axes for axes in figure.axes if axes.images)
    assert heat.images[0].get_array().shape == (700, 700)
    assert heat.get_xlabel().startswith("700 perturbations")
    assert max(figure.get_size_inches()) < 20


def test_more_perturbations_than_can_be_compared_are_refused() -> None:
    names = pd.Index([f"P{i}" for i in range(3001)])
    many = pd.DataFrame(1.0, names, ["z0"])
    inclusion = pd.DataFrame({"perturbation": names, "dimension": "z0", "probability": 1.0})
    for draw, table in (
        (plotting.shift_similarity, many),
        (plotting.clustered_shifts, many),
        (plotting.mask_heatmap, inclusion.assign(shift=1.0)),
    ):
        with pytest.raises(samsvae.InputError, match=r"3,001 perturbations.*at most 3,000"):
            draw(table)


def test_an_empty_table_has_nothing_to_compare() -> None:
    for draw in (plotting.shift_similarity, plotting.clustered_shifts):
        with pytest.raises(samsvae.InputError, match="it is empty"):
            draw(EMBEDDING.iloc[:0])
