"""Plots of results: one contract for all, and what each shows, number by number."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from helpers.plots import (
    CALIBRATION,
    KINDS,
    POINTS,
    RESULT_PLOTS,
    SCORES,
    STABILITY,
    STRENGTHS,
    Specimen,
    doses,
    label_of,
)
from helpers.report_tables import HOSTILE, effects, history, inclusion, mechanisms, scores
from samsvae import InputError, plotting
from samsvae.plotting import style

TABLES = {
    name: one
    for name, one in RESULT_PLOTS.items()
    if name not in ("dose_curve", "cell_map", "shift_map")  # they take no columns by name
}


@pytest.fixture(autouse=True)
def agg() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


def panels(drawn: Axes | Figure) -> list[Axes]:
    """Return the axes with data, but for the bars of colours."""
    found = drawn.axes if isinstance(drawn, Figure) else [drawn]
    return [one for one in found if one.has_data() and one.get_label() != "<colorbar>"]


@pytest.mark.parametrize("specimen", RESULT_PLOTS.values(), ids=RESULT_PLOTS)
def test_a_plot_is_drawn_with_units_and_changes_nothing(specimen: Specimen) -> None:
    before = copy.deepcopy(specimen.table)
    drawn = specimen.draw(specimen.table)
    assert isinstance(drawn, Axes if specimen.takes_axes else Figure)
    figure = drawn.get_figure() if isinstance(drawn, Axes) else drawn
    assert figure is not None
    figure.canvas.draw()
    for axes in panels(drawn):
        bare = not axes.axison or not axes.get_xticks().size  # words, or a band of colours
        assert bare or axes.get_xlabel() or axes.get_ylabel()
    if isinstance(before, pd.DataFrame):
        pd.testing.assert_frame_equal(specimen.table, before)
    else:
        np.testing.assert_array_equal(specimen.table.X, before.X)


@pytest.mark.parametrize(
    "specimen",
    [one for one in RESULT_PLOTS.values() if one.takes_axes],
    ids=[name for name, one in RESULT_PLOTS.items() if one.takes_axes],
)
def test_it_draws_where_it_is_told(specimen: Specimen) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    assert specimen.draw(specimen.table, ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    assert len(plt.get_fignums()) == 1
    figure.canvas.draw()


@pytest.mark.parametrize("specimen", TABLES.values(), ids=TABLES)
def test_a_table_without_what_is_needed_is_refused(specimen: Specimen) -> None:
    renamed = specimen.table.rename(columns={specimen.needs: f"{specimen.needs}x"})
    with pytest.raises(InputError, match=f"no column .*'{specimen.needs}'.*'{specimen.needs}x'"):
        specimen.draw(renamed)
    with pytest.raises(InputError, match="no rows"):
        specimen.draw(specimen.table.iloc[:0])


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plotting.volcano(effects(), "D"), "no condition of the table: 'D'"),
        (lambda: plotting.volcano(effects()), "the table has 5 conditions: name one of"),
        (lambda: plotting.combination_bars(effects(), "A+B", ["A"]), "has 1 parts"),
        (lambda: plotting.combination_bars(effects(), "A+B", ["A", "Z"]), "no condition .*'Z'"),
        (lambda: plotting.mechanism_card(mechanisms(["A"]), "z9"), "no mechanism 'z9'"),
        (lambda: plotting.metric_strip(SCORES, ["ate_paerson"]), "'ate_pearson'"),
        (lambda: plotting.metric_strip(SCORES, ["rmse"], split="tst"), "no split of the table"),
        (lambda: plotting.stability_matrix(STABILITY, "jaccard"), "'mask_jaccard'"),
        (lambda: plotting.dose_curve(doses(), ["gx"]), "no gene 'gx'"),
        (lambda: plotting.dose_curve(doses()[:, :2].copy().T), "have no doses"),
    ],
)
def test_what_is_not_there_is_told(draw: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw()


def points_of(axes: Axes, i: int = 0) -> np.ndarray:
    """Return the points of a line, as they are drawn."""
    return np.column_stack([np.asarray(one, float) for one in axes.lines[i].get_data()])


def test_history_shows_every_row_and_the_model_that_was_kept() -> None:
    table = history()
    elbo, *terms = plotting.training_history(table).axes
    np.testing.assert_allclose(points_of(elbo), table[["step", "elbo"]])
    np.testing.assert_allclose(points_of(elbo, 1), table[["step", "valid_elbo"]])
    best = table[table["is_best"]].iloc[-1]
    np.testing.assert_allclose(points_of(elbo, 2)[0], best[["step", "valid_elbo"]].tolist())
    assert [one.get_title() for one in terms] == [
        *("likelihood", "basal", "mask", "embedding", "mask entries not in use")
    ]
    assert points_of(elbo, 3)[0, 0] == 550  # between the last row without masks and the first with


def test_history_without_validation_or_masks() -> None:
    table = history().drop(columns=["valid_elbo", "is_aligned", "mask_sparsity"])
    (elbo, *terms) = plotting.training_history(table.assign(mask=0.0)).axes
    assert len(elbo.lines) == 1
    assert [one.get_title() for one in terms] == ["likelihood", "basal", "embedding"]


def test_the_heatmap_holds_every_perturbation_and_dimension_in_use() -> None:
    names = [f"P{i}" for i in range(9)]
    table = inclusion(names)
    table.loc[table["dimension"] == "z3", "probability"] = 0.4  # not in use
    size = pd.Series(np.arange(9.0), names)
    figure = plotting.mask_heatmap(table, effect_size=size)
    heat, cells, sizes = panels(figure)
    shift = table.pivot(index="perturbation", columns="dimension", values="shift")
    rows, columns = label_of(heat), [text.get_text() for text in heat.get_xticklabels()]
    assert sorted(rows) == names
    assert sorted(columns) == ["z0", "z1", "z2"]
    np.testing.assert_allclose(heat.images[0].get_array(), shift.loc[rows, columns])
    assert [bar.get_width() for bar in sizes.patches] == size[rows].tolist()
    assert {bar.get_width() for bar in cells.patches} == {70}


def test_seven_hundred_perturbations_are_all_drawn_and_none_is_named() -> None:
    figure = plotting.mask_heatmap(inclusion([f"P{i}" for i in range(700)], 6))
    heat, _ = panels(figure)
    assert heat.images[0].get_array().shape == (700, 6)  # type: ignore[union-attr]
    assert heat.get_ylabel() == "700 perturbations"
    assert figure.get_figheight() <= 16


def test_the_scatter_shows_every_gene_and_names_the_largest() -> None:
    table = effects()
    own = table[table["condition"] == "A"]
    axes = plotting.effect_scatter(table, "A", n_named=3)
    drawn = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(drawn[0].get_xydata(), own[["observed", "estimate"]])
    size = own[["observed", "estimate"]].abs().max(axis=1)
    largest = set(own.loc[size.nlargest(3).index, "gene"])
    assert {text.get_text() for text in axes.texts} <= largest
    assert axes.texts
    ends = np.array([line[:, 1] for line in axes.collections[0].get_segments()])  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.sort(ends, 1), own[["lower", "upper"]])


def test_names_do_not_cover_each_other() -> None:
    table = effects().assign(observed=0.01, estimate=lambda t: t["estimate"] / 50)
    axes = plotting.effect_scatter(table, "A", n_named=40)
    figure = axes.get_figure()
    assert figure is not None
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) > 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_volcano_calls_by_q_and_leaves_nothing_out() -> None:
    table = effects()
    own = table[table["condition"] == "A"]
    axes = plotting.volcano(table, "A", fdr=0.05)
    none, up, down = (line.get_xydata() for line in axes.lines[:3])
    called = own[own["q_value"] < 0.05]
    assert len(none) + len(up) + len(down) == len(own)
    assert (len(up), len(down)) == (
        (called["estimate"] > 0).sum(),
        (called["estimate"] < 0).sum(),
    )
    rises = called[called["estimate"] > 0]
    np.testing.assert_allclose(up[:, 1], -np.log10(rises["lfsr"]))
    certain = plotting.volcano(table.assign(lfsr=0.0), "A")
    assert np.isfinite(certain.lines[1].get_xydata()).all()


def test_top_effects_are_the_largest_with_their_intervals() -> None:
    own = effects().query("condition == 'A'")
    axes = plotting.top_effects(own, n_genes=5)
    wanted = own.loc[own["estimate"].abs().nlargest(5).index].sort_values("estimate")
    assert label_of(axes) == wanted["gene"].tolist()
    np.testing.assert_allclose(points_of(axes)[:, 0], wanted["estimate"])
    bars = np.array([one[:, 0] for one in axes.collections[0].get_segments()])  # type: ignore[attr-defined]
    np.testing.assert_allclose(bars, wanted[["lower", "upper"]])


def test_bars_of_a_combination_add_up() -> None:
    table = effects()
    table = table[table["gene"] != HOSTILE]  # a name that is cut short
    axes = plotting.combination_bars(table, "A+B", ["A", "B"], n_genes=4)
    names = axes.get_legend_handles_labels()[1]
    assert names == ["A", "B", "sum of singles", "predicted", "observed"]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(np.add(heights[0], heights[1]), heights[2])
    genes = [text.get_text() for text in axes.get_xticklabels()]
    own = table[table["condition"] == "A+B"].set_index("gene")
    np.testing.assert_allclose(heights[3], own.loc[genes, "model"])
    np.testing.assert_allclose(heights[4], own.loc[genes, "observed"])
    assert genes == own[["model", "observed"]].abs().max(axis=1).nlargest(4).index.tolist()


def test_a_card_tells_what_it_leaves_out() -> None:
    names = [f"P{i}" for i in range(40)]
    sets = pd.DataFrame({"gene_set": ["one"], "direction": [-1], "q_rank": [0.001]})
    figure = plotting.mechanism_card(mechanisms(names, 1), "z0", gene_sets=sets)
    bars, words = figure.axes
    assert label_of(bars) == names[:25]
    assert "15 more perturbations" in bars.get_xlabel()
    told = " ".join(text.get_text() for text in words.texts)
    assert "STAT1" in told
    assert "JAK2" in told
    assert "one (-, q = 0.001)" in told


def test_a_card_draws_candidates_in_grey() -> None:
    table = mechanisms(["A", "B"], 1)
    table["candidates"], table["candidate_shifts"] = [["C"]], [[-0.5]]
    table["candidate_probabilities"] = [[0.6]]
    bars = plotting.mechanism_card(table, "z0").axes[0]
    assert label_of(bars) == ["A", "B", "C"]
    assert [bar.get_width() for bar in bars.patches] == [1.5, 1.5, -0.5]
    is_grey = [to_hex(bar.get_facecolor()) == style.OTHER for bar in bars.patches]
    assert is_grey == [False, False, True]
    assert "0.60" in [text.get_text() for text in bars.texts]
    plotting.mechanism_card(table.drop(columns=[c for c in table if "candidate" in c]), "z0")


def test_a_strip_takes_pooled_scores_of_the_split_and_the_replicate_as_a_line() -> None:
    figure = plotting.metric_strip(SCORES, ["ate_pearson", "coverage_90"])
    pearson, coverage = figure.axes
    assert label_of(pearson) == ["sams-vae", "condition-mean"]
    values = scores().query("metric == 'ate_pearson'")["value"].tolist()
    assert [float(line.get_xdata()[0]) for line in pearson.lines] == values
    assert [text.get_text() for text in coverage.texts] == ["no score"]  # of the baseline


def test_calibration_has_a_curve_for_each_label_in_order() -> None:
    axes = plotting.calibration_curve(CALIBRATION)
    np.testing.assert_allclose(points_of(axes, 1), [[0.5, 0.52], [0.9, 0.88]])
    np.testing.assert_allclose(points_of(axes, 2), [[0.5, 0.3], [0.9, 0.6]])
    assert axes.get_legend_handles_labels()[1] == ["model", "other"]


def test_the_matrix_of_seeds_is_symmetric() -> None:
    axes = plotting.stability_matrix(STABILITY, "mask_jaccard")
    nan = np.nan
    wanted = [[nan, 0.5, 0.6], [0.5, nan, 0.7], [0.6, 0.7, nan]]
    np.testing.assert_allclose(np.ma.filled(axes.images[0].get_array(), nan), wanted)
    assert axes.get_title() == "by chance 0.10"
    assert sorted(text.get_text() for text in axes.texts) == [
        *(["0.50"] * 2),
        *(["0.60"] * 2),
        *(["0.70"] * 2),
    ]


def test_a_dose_curve_draws_the_genes_with_the_largest_effect() -> None:
    table = doses()
    axes = plotting.dose_curve(table, n_genes=2)
    assert axes.get_legend_handles_labels()[1] == ["g7", "g0"]
    np.testing.assert_allclose(points_of(axes), np.column_stack([table.obs["dose"], table.X[:, 7]]))


def test_sgrnas_are_those_of_the_condition() -> None:
    axes = plotting.sgrnas_of_target(STRENGTHS, "A")
    assert label_of(axes) == ["A_2 (1)", "A_1 (60)", "A_3 (40)"]  # what is not known comes last
    np.testing.assert_allclose(points_of(axes)[:, 0], [0.1, 1.1, np.nan])


def test_power_counts_the_genes_of_every_condition() -> None:
    table = effects()
    table.loc[table["condition"] == "B", "n_cells"] = 0
    axes = plotting.screen_power(table, fdr=0.1)
    found = (table["q_value"] < 0.1).groupby(table["condition"], sort=False).sum()
    cells = [100, 0, 100, 100, 100]
    drawn = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(drawn, np.column_stack([cells, found]))
    low, high = axes.get_xlim()
    assert low < 0 < 100 < high  # those without cells are on the page, too


LONG = "<b>" + "a long name " * 20


def renamed(table: Any) -> Any:
    """Return a table in which texts that are no keys of the drawing are long."""
    keys = {"condition", "predictor", "metric", "split", "dimension", "label"}
    texts = [c for c in table if table[c].map(type).eq(str).all() and c not in keys]
    return table.assign(**{c: table[c].map(lambda one: f"{one} {LONG}") for c in texts})


def holed(table: Any) -> Any:
    """Return a table in which every third number is not known."""
    numbers = table.select_dtypes(float).columns
    gone = np.arange(len(table)) % 3 == 1
    return table.assign(**{name: table[name].mask(gone) for name in numbers})


def first(table: Any) -> Any:
    """Return the first row alone."""
    return table.iloc[:1]


NEED_MORE = [RESULT_PLOTS[name].draw for name in ("combination_bars", "metric_strip")]
"""Those that are asked for what is not in the first row."""
PLAIN = {name: one for name, one in RESULT_PLOTS.items() if name != "dose_curve"}


@pytest.mark.parametrize("odd", [renamed, holed, first])
@pytest.mark.parametrize("specimen", PLAIN.values(), ids=PLAIN)
def test_odd_tables_are_drawn(specimen: Specimen, odd: Any) -> None:
    table = odd(specimen.table)
    if odd is first and specimen.draw in NEED_MORE:
        with pytest.raises(InputError, match="of the table"):
            specimen.draw(table)
        return
    drawn = specimen.draw(table)
    figure = drawn.get_figure() if isinstance(drawn, Axes) else drawn
    assert figure is not None
    figure.canvas.draw()
    assert max(figure.get_size_inches()) < 20


def cells_of(axes: Axes) -> np.ndarray:
    """Return all points of a map, in their order by place."""
    drawn = [np.asarray(one.get_offsets()) for one in axes.collections]
    points = np.concatenate([one for one in drawn if len(one)])
    return points[np.lexsort(points.T)]


def test_a_map_of_cells_shows_all_and_names_conditions_by_their_cells() -> None:
    axes = plotting.cell_map(POINTS, KINDS, n_coloured=3)
    places = POINTS.to_numpy()
    np.testing.assert_allclose(cells_of(axes), places[np.lexsort(places.T)])
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "condition"
    n = KINDS.value_counts()
    most = [f"{name}: {n[name]}" for name in n.index[:3]]
    told = [text.get_text() for text in legend.get_texts()]
    assert sorted(told[:3]) == sorted(most)
    assert told[3:] == [f"{len(n) - 3} others: {n.iloc[3:].sum()}", "not known: 3"]
    coloured = axes.collections[1]
    assert len(np.asarray(coloured.get_offsets())) == n.iloc[:3].sum()
    assert len(np.unique(coloured.get_facecolors(), axis=0)) == 3  # type: ignore[attr-defined]


def test_a_map_of_cells_shows_numbers_on_a_scale() -> None:
    value = pd.Series(np.arange(50.0), POINTS.index[:50], name="probability of response")
    value.iloc[4] = np.nan
    axes = plotting.cell_map(POINTS, value[::-1])  # matched by name
    figure = axes.get_figure()
    assert figure is not None
    assert [one.get_ylabel() for one in figure.axes[1:]] == ["probability of response"]
    unknown, known = axes.collections
    assert len(np.asarray(unknown.get_offsets())) == 11
    drawn = np.column_stack([np.asarray(known.get_offsets()), np.asarray(known.get_array())])
    told = np.column_stack([POINTS[:50], value]).astype(float)
    told = told[np.isfinite(told[:, 2])]
    np.testing.assert_allclose(drawn[drawn[:, 2].argsort()], told)


def test_points_without_a_place_are_counted() -> None:
    table = POINTS.copy()
    table.iloc[:7] = np.nan
    for draw, what in ((plotting.cell_map, "cells"), (plotting.shift_map, "perturbations")):
        axes = draw(table)
        assert axes.get_xlabel() == f"UMAP 1\n7 {what} without a place"
        with pytest.raises(InputError, match=f"none of 60 {what} has a place"):
            draw(table * np.nan)
        with pytest.raises(InputError, match="have 1 coordinates"):
            draw(table[["UMAP 1"]])


def test_a_map_of_perturbations_shows_all_and_names_the_furthest() -> None:
    axes = plotting.shift_map(POINTS, KINDS[::3], n_named=4)
    places = POINTS.to_numpy()
    np.testing.assert_allclose(cells_of(axes), places[np.lexsort(places.T)])
    out = np.linalg.norm(places - np.median(places, 0), axis=1)
    furthest = set(POINTS.index[np.argsort(-out)[:4]])
    assert {text.get_text() for text in axes.texts} <= furthest
    assert axes.texts


def test_a_category_is_told_by_truth_too() -> None:
    value = pd.Series(np.arange(60) % 2 == 0, POINTS.index, name="responds")
    legend = plotting.cell_map(POINTS, value).get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["False: 30", "True: 30"]
