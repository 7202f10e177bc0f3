"""The page: one file, names always as text, numbers as in the tables, missing inputs listed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.report_tables import (
    GENES,
    HOSTILE,
    cells,
    context_differences,
    effects,
    inclusion,
    mechanisms,
    report_tables,
    scores,
)
from samsvae.analysis.ordering import surest_first
from samsvae.analysis.similarity import chance_correlation
from samsvae.analysis.targets import on_target
from samsvae.benchmark.baselines import BASELINES
from samsvae.benchmark.feature_baselines import FeatureNeighbours, FeatureRidge
from samsvae.benchmark.tasks import REPLICATE
from samsvae.ops.ordering import average_linkage_order
from samsvae.report import page as made
from samsvae.report import page as payload
from samsvae.report.page import N_GENES, embedded, page
from samsvae.report.tables import MEANINGS, PREDICTORS, context_map, scoreboards
from samsvae.runs.reporting import REPORTED_METRICS


class Reader(HTMLParser):
    """Collects what a browser would see: elements by name, addresses, the texts between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [str(given[name]) for name in ("src", "href") if name in given]
        self.ids += [str(given["id"])] if "id" in given else []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def record(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found)  # type: ignore[no-any-return]


def test_names_are_always_text() -> None:
    text = page(report_tables())
    seen = Reader(text)
    assert seen.tags.count("script") == 2  # the data and the code, and none of a name
    assert HOSTILE not in text
    assert seen.texts.count(HOSTILE) >= 4  # title, condition, batch, setting
    assert HOSTILE in record(text)["genes"]


def test_what_would_end_the_element_is_escaped() -> None:
    name = "</script><!--&\u2028\u2029"
    text = embedded({"gene": name, "x": [float("nan"), float("inf"), 1.5, np.float64(2)]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"gene": name, "x": [None, None, 1.5, 2.0]}


def test_nothing_is_loaded_from_elsewhere() -> None:
    seen = Reader(page(report_tables()))
    assert {one.split(":")[0] for one in seen.addresses if ":" in one} == {"data"}
    within = {one[1:] for one in seen.addresses if one.startswith("#")}
    assert within <= set(seen.ids)  # every link of the page leads somewhere
    assert len(seen.ids) == len(set(seen.ids))


def test_effects_are_those_of_the_table_by_lfsr() -> None:
    given = effects()
    read = record(page(report_tables(effects=given)))
    assert [one["name"] for one in read["conditions"]] == list(pd.unique(given["condition"]))
    own = read["effects"][0]
    genes = [read["genes"][i] for i in own["gene"]]
    rows = given[given["condition"] == "A"].sort_values("lfsr").head(N_GENES)
    assert genes == rows["gene"].tolist()
    for name in ("estimate", "lower", "upper", "lfsr", "q_value", "model", "observed"):
        np.testing.assert_allclose(own[name], rows[name], rtol=1e-3)
    called = given[(given["condition"] == "A") & (given["q_value"] < 0.05)]
    told = read["conditions"][0]
    assert (told["nUp"], told["nDown"]) == (
        (called["estimate"] > 0).sum(),
        (called["estimate"] < 0).sum(),
    )


def test_combinations_are_compared_with_the_sum_of_the_observed_singles() -> None:
    given = effects()
    (own,) = record(page(report_tables(effects=given)))["combinations"]
    genes = [record(page(report_tables(effects=given)))["genes"][i] for i in own["gene"]]
    wide = {name: rows.set_index("gene") for name, rows in given.groupby("condition")}
    np.testing.assert_allclose(own["predicted"], wide["A+B"].loc[genes, "model"], rtol=1e-3)
    np.testing.assert_allclose(own["observed"], wide["A+B"].loc[genes, "observed"], rtol=1e-3)
    added = (wide["A"]["observed"] + wide["B"]["observed"])[genes]
    np.testing.assert_allclose(own["sum"], added, rtol=1e-3)
    error = (wide["A+B"]["model"] - wide["A+B"]["observed"]).to_numpy()
    assert own["fit"]["predicted"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)


def test_the_mask_holds_every_perturbation_and_dimension_in_use() -> None:
    names = [f"P{i}" for i in range(9)]
    table = inclusion(names)
    found = record(page(report_tables(mechanisms=mechanisms(names), inclusion=table)))["mask"]
    assert sorted(found["perturbations"]) == sorted(names)
    shift = table.pivot(index="perturbation", columns="dimension", values="shift")
    shift = shift.loc[found["perturbations"], found["dimensions"]]
    np.testing.assert_allclose(found["shift"], shift, rtol=1e-2)


def test_responders_are_listed_by_perturbation_and_sgrna() -> None:
    rates = pd.DataFrame(
        {
            "perturbation": ["A", "A", "B"],
            "sgrna": ["(all)", HOSTILE, "(all)"],
            "n_cells": [1234, 40, 77],
            "rate": [0.61, 0.25, np.nan],
            "lower": [0.55, 0.1, np.nan],
            "upper": [0.7, 0.4, np.nan],
            "log_bayes_factor": [12.34, -0.5, -0.1],
            "informative": [True, True, False],
        }
    )
    texts = Reader(page(report_tables(responders=rates))).texts
    start = texts.index("(all)")
    row = [text for text in texts[start - 1 : start + 12] if text.strip()]
    assert row[:6] == ["A", "(all)", "1,234", "0.61", "0.55 to 0.70", "12.3"]
    assert HOSTILE in row
    assert texts[texts.index("77") + 1] == "not informative"


def test_similar_rows_are_neighbours() -> None:
    order = average_linkage_order(np.array([[0.0], [5.0], [0.1], [5.1]])).tolist()
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cells": None, "missing": {"data": "no cells here"}}, "no cells here"),
        ({"sgrnas": None}, "read the screen with sgrna_key"),
        ({"batches": None}, "read without batches"),
        ({"scores": None, "missing": {"evaluation": "evaluate it"}}, "evaluate it"),
        ({"effects": None, "missing": {"discoveries": "no effects"}}, "no effects"),
        ({"effects": effects().drop(columns=["lfsr", "q_value"])}, "There are no error rates"),
        ({"combinations": {}}, "The data hold no combinations"),
        ({"mechanisms": None, "missing": {"mechanisms": "no masks"}}, "no masks"),
        ({"history": pd.DataFrame()}, "no history of its training"),
        ({}, "takes perturbations to act in all of them"),
        ({"missing": {"responders": "train again"}}, "train again"),
    ],
)
def test_sections_say_what_is_missing(changed: dict[str, Any], words: str) -> None:
    seen = Reader(page(report_tables(**changed)))
    assert any(words in text for text in seen.texts)


def test_the_best_model_or_baseline_is_marked_but_no_technical_replicate() -> None:
    (board,) = scoreboards(scores(rmse=0.45))
    best = {
        (predictor, metric)
        for predictor, _, row in board.rows
        for metric, cell in zip(board.metrics, row, strict=True)
        if cell is not None and cell.is_best
    }
    assert best == {
        ("sams-vae", "ate_pearson"),
        ("condition-mean", "rmse"),
        ("sams-vae", "coverage_90"),
    }
    assert [kind for _, kind, _ in board.rows] == ["model", "baseline", "replicate"]


def test_the_highest_likelihood_is_the_best() -> None:
    rows = [("a", -200.0), ("b", -190.0)]
    table = pd.DataFrame(
        {"predictor": name, "kind": "model", "split": "test", "metric": "iwelbo", "value": value}
        for name, value in rows
    ).assign(lower=np.nan, upper=np.nan, sd=0.1, best=np.inf)
    (board,) = scoreboards(table)
    assert [cells[0].is_best for _, _, cells in board.rows if cells[0]] == [False, True]


def test_a_large_screen_fits() -> None:
    """A seventh of 700 perturbations x 1,200 genes, in a seventh of 10 MB."""
    names = [f"PERTURBATION{i}" for i in range(100)]
    genes = [f"ENSG{i:011d}" for i in range(1200)]
    text = page(
        report_tables(
            effects=effects(names, genes),
            inclusion=inclusion(names, 100),
            mechanisms=mechanisms(names, 100),
            combinations={},
            similar={name: [(other, 0.123) for other in names[:8]] for name in names},
        )
    )
    assert len(text.encode()) < 10e6 / 7
    assert len(GENES) > N_GENES  # so that the other tests see a table cut short


def test_of_many_perturbations_the_page_holds_some_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"P{i}" for i in range(30)]
    monkeypatch.setattr(payload, "MAPPED", 10)
    monkeypatch.setattr(made, "MAPPED", 10)
    monkeypatch.setattr(made, "LISTED", 12)
    monkeypatch.setattr(payload, "_ROWS", 600)
    table, seen = inclusion(names, 1), cells(names)
    text = page(
        report_tables(
            effects=effects(names),
            inclusion=table,
            mechanisms=mechanisms(names, 1),
            cells=seen,
            combinations={},
        )
    )
    mask = record(text)["mask"]
    sizes = table.groupby("perturbation")["shift"].apply(lambda s: np.square(s).sum())
    assert mask["n"] == 30
    assert len(record(text)["map"].get("name", [])) <= 10
    assert set(mask["perturbations"]) == set(sizes.nlargest(10).index)
    assert {len(one["gene"]) for one in record(text)["effects"]} == {20}
    told = " ".join(Reader(text).texts)
    for words in (
        "The 10 perturbations of the largest shifts, of 30",
        "The first 12 of 31 conditions",
        "the 20 genes with the smallest lfsr",
        "The 20 largest shifts",
    ):
        assert words in told
    assert "complete tables" in told


def test_each_reported_metric_is_explained() -> None:
    assert set(REPORTED_METRICS) == set(MEANINGS)
    baselines = [one.name for one in (*BASELINES, FeatureNeighbours, FeatureRidge)]
    assert set(PREDICTORS) == {*baselines, REPLICATE}


def test_the_page_says_how_many_calls_are_unsure_by_themselves() -> None:
    table = effects()
    is_call = table["q_value"] < 0.05
    n_unsure = int((is_call & (table["lfsr"] > 0.05)).sum())
    assert n_unsure > 1
    text = page(report_tables(effects=table))
    assert f"Of {is_call.sum()} calls at q below 0.05, {n_unsure} have an lfsr above 0.05" in text
    sure = page(report_tables(effects=table.assign(q_value=1.0)))
    assert "calls at q below" not in sure


def test_genes_at_the_same_lfsr_are_ordered_by_size_over_error() -> None:
    table = effects(["A"]).assign(lfsr=0.0, q_value=0.0)
    table["sd"] = np.linspace(0.1, 1, len(table))
    text = record(page(report_tables(effects=table, combinations={})))
    listed = [text["genes"][i] for i in text["effects"][0]["gene"]]
    size = (table["estimate"].abs() / table["sd"]).set_axis(table["gene"])
    assert listed == list(size.sort_values(ascending=False).index[: len(listed)])


def test_parts_of_a_combination_are_matched_by_gene_whatever_the_order_of_rows() -> None:
    table = effects()
    first = record(page(report_tables(effects=table)))
    second = record(page(report_tables(effects=surest_first(table, "condition"))))
    (one,), (other,) = first["combinations"], second["combinations"]
    of_gene = [
        dict(zip((r["genes"][i] for i in c["gene"]), c["sum"], strict=True))
        for r, c in ((first, one), (second, other))
    ]
    assert of_gene[0] == of_gene[1]


def test_the_page_lists_effects_on_own_genes() -> None:
    table = effects(["STAT1", HOSTILE]).assign(lfsr=0.0)
    table["on_target"] = (table["condition"] == table["gene"]) & (table["gene"] == "STAT1")
    own = on_target(table)
    text = page(report_tables(effects=table, on_target=own, combinations={}))
    seen = " ".join(Reader(text).texts)
    assert own["change"][0] in ("up", "down")
    assert f"1 {own['change'][0]}" in seen
    assert "1 not measured" in seen
    assert "Does each perturbation change its own gene" not in page(report_tables())


def test_the_card_of_a_mechanism_says_what_up_and_down_mean() -> None:
    table = mechanisms(["A", "B", "C", HOSTILE], n_latent=2)
    table["shifts"] = [[-2.0, 1.0]] * 2
    table["direction"] = "negative"
    seen = " ".join(" ".join(Reader(page(report_tables(mechanisms=table))).texts).split())
    said = "Perturbing A (negative shift) raises the first genes and lowers the second;"
    assert f"{said} perturbing C (positive shift) does the opposite." in seen


def test_candidates_are_grey_below_the_members() -> None:
    table = mechanisms(["A", "C"], n_latent=1)
    assert (
        "candidate"
        not in page(report_tables(mechanisms=table))
        .partition("<article")[2]
        .partition("</article")[0]
    )
    table["n_candidates"], table["candidates"] = 1, [["B"]]
    table["candidate_shifts"], table["candidate_probabilities"] = [[-0.7]], [[0.75]]
    card = page(report_tables(mechanisms=table)).partition("<article")[2].partition("</article")[0]
    rows = card.split("<tr")[2:]
    assert [' class="candidate"' in row for row in rows] == [False, False, True]
    assert [words in rows[2] for words in (">B<", "(candidate)", "-0.70", "0.750")] == [True] * 4
    assert "2 members, 1 candidate;" in card
    assert "log Bayes factor of 5.0 and log odds of 4.0 nats" in card


def test_the_page_states_above_which_correlation_conditions_act_alike() -> None:
    data = record(page(report_tables()))
    assert data["similarAbove"] == pytest.approx(chance_correlation(5, len(GENES)), rel=1e-3)
    assert record(page(report_tables(effects=None, similar={}, combinations={})))["similar"] == []


def test_where_perturbations_act_differently() -> None:
    """The length of the shift in the likely dimensions; of two contexts, both."""
    table = context_map(context_differences(), 10)
    assert list(table.index) == ["A", HOSTILE]
    assert list(table.columns) == ["one", "two", "x"]
    assert table.loc["A"].fillna(-1).tolist() == [5.0, 0.0, -1]
    assert table.loc[HOSTILE].fillna(-1).tolist() == [-1, 2.0, 2.0]
    assert list(context_map(context_differences(), 1).index) == ["A"]


def test_contexts_and_interactions_have_a_section_where_there_are_some() -> None:
    text = page(report_tables())
    assert 'href="#differences"' in text
    assert "Perturbations and contexts" in text
    nothing = context_differences().assign(probability=0.1)
    pairs = report_tables().interactions
    assert pairs is not None
    calm = page(report_tables(contexts=nothing, interactions=pairs.assign(probability=0.1)))
    assert "No perturbation acts differently in any context" in calm
    assert "No pair does anything beyond the sum of its parts" in calm
    without = page(report_tables(contexts=None, interactions=None))
    assert "differences" not in without.split("<main")[0].split("<nav")[1]
    assert 'id="differences"' not in without
