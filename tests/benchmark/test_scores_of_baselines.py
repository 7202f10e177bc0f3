"""Scores of baselines, of interactions, and what cells and scales they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

import samsvae
from helpers.observed import of_part
from helpers.scores import (
    BARE,
    BY_HAND,
    EFFECTS,
    INTERACTIONS,
    SCORED,
    SINGLES,
    Cells,
    by_hand,
    heldout,
    in_split,
    scored,
    values,
)
from helpers.screens import make_adata, read
from samsvae import Screen
from samsvae.benchmark.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    NoChange,
    PerturbationMean,
)

# Values of baselines.


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize("metric", BY_HAND)
def test_baselines_against_the_test_cells(
    kind: type[Baseline], metric: str, whole: Screen, table: pd.DataFrame
) -> None:
    cells, effects = (
        Cells(whole, in_split(whole, "test")),
        kind(whole).effects(SCORED, scale="log").to_df(),
    )
    expected = by_hand(
        metric,
        {name: effects.loc[name].to_numpy() for name in SCORED},
        {name: cells.effect(name) for name in SCORED},
    )
    assert values(table, kind.name, metric) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [ConditionMean, Additive])
def test_the_correlation_is_that_of_ate_pearson(
    kind: type[Baseline], whole: Screen, table: pd.DataFrame
) -> None:
    effects = kind(whole).effects(scale="log").to_df()
    expected = samsvae.ate_pearson(effects, whole.test, scale="log")
    own = values(table, kind.name, "ate_pearson")
    assert own.pop("(all)") == pytest.approx(expected.pooled)
    assert own == pytest.approx(dict(expected.per_condition))


@pytest.mark.parametrize("scale", ["log", "normalized", "mean"])
def test_what_repeats_the_training_cells_is_right_about_them(whole: Screen, scale: Any) -> None:
    rows = scored(Additive(whole), whole, scale=scale, splits=["train"], **BARE)
    assert rows.attrs["scale"] == scale
    for metric in of_part("effects"):
        if metric.name not in ("de_overlap", "de_auprc"):
            own = values(rows, "additive", metric.name, "train")
            right = np.array([own[name] for name in SINGLES])
            if metric.name == "de_sign_agreement":
                assert np.isnan(right).any()  # C does nothing
                right = right[~np.isnan(right)]
            np.testing.assert_allclose(right, metric.best, atol=1e-6)


def test_effects_are_on_the_scale_that_is_asked_for(whole: Screen) -> None:
    counts, test = whole.counts.toarray().astype(float), in_split(whole, "test")
    share = 1e4 * counts / counts.sum(1, keepdims=True)
    for scale, dense in (("normalized", share), ("mean", counts)):
        rows = scored(NoChange(whole), whole, scale=scale, **BARE)
        cells = Cells(whole, test, dense)
        expected = {name: np.abs(cells.effect(name)).mean() for name in SCORED}
        own = values(rows, "no-change", "mae")
        assert {name: own[name] for name in SCORED} == pytest.approx(expected)


def test_unused_cells_are_never_scored(whole: Screen) -> None:
    cells = np.asarray(whole.split).astype(object)
    left_out = np.flatnonzero(cells == "test")[::2]
    cells[left_out] = "unused"
    screen = whole.with_split(cells)
    rows = scored(NoChange(screen), screen, **BARE)
    kept = Cells(screen, cells == "test")
    expected = {name: np.abs(kept.effect(name)).mean() for name in SCORED}
    own = values(rows, "no-change", "mae")
    assert {name: own[name] for name in SCORED} == pytest.approx(expected)


# Interactions.


def test_interactions_by_hand(table: pd.DataFrame, whole: Screen) -> None:
    test, everywhere = Cells(whole, in_split(whole, "test")), Cells(whole, [True] * len(whole))
    control = test.mean("control")
    parts = everywhere.mean("A") + everywhere.mean("B") - 2 * control  # all of their cells
    observed = test.effect("A+B") - parts
    rows = {"A+B": 0.0, "(all)": 0.0} | dict.fromkeys(SINGLES, np.nan)
    for name, predicted in (("additive", 0), ("no-change", 0)):
        assert values(table, name, "interaction_pearson") == pytest.approx(rows, nan_ok=True)
        own = values(table, name, "interaction_rmse")
        assert own["(all)"] == pytest.approx(np.sqrt(((observed - predicted) ** 2).mean()))
        assert own["A+B"] == own["(all)"]
    effects = ConditionMean(whole).effects(SCORED, scale="log").to_df()
    predicted = (effects.loc["A+B"] - effects.loc["A"] - effects.loc["B"]).to_numpy()
    expected = {
        "interaction_pearson": pearsonr(predicted, observed)[0],
        "interaction_rmse": np.sqrt(((predicted - observed) ** 2).mean()),
    }
    for metric, value in expected.items():
        own = values(table, "condition-mean", metric)
        assert own["A+B"] == pytest.approx(value)
        assert np.isnan([own[name] for name in SINGLES]).all()


@pytest.mark.parametrize("missing", ["A", "B", "B+A"])
def test_interactions_need_combinations_and_their_parts(missing: str) -> None:
    adata = make_adata()
    screen = read(adata[adata.obs["perturbation"] != missing].copy())
    rows = scored(Additive(screen), screen, n_cells=0)
    assert set(rows["metric"]) == set(EFFECTS)


def test_parts_of_a_held_out_combination_are_seen_in_training() -> None:
    screen = heldout("B+A")
    rows = scored([Additive(screen), PerturbationMean(screen)], screen, **BARE)
    assert set(rows[rows["metric"].isin(INTERACTIONS)]["split"]) == {"unseen"}
    assert values(rows, "additive", "interaction_pearson", "unseen")["A+B"] == 0
    mean = PerturbationMean(screen).effects("A", scale="log").X[0]
    cells, everywhere = Cells(screen, in_split(screen, "test")), Cells(screen, [True] * 240)
    parts = everywhere.mean("A") + everywhere.mean("B") - 2 * cells.mean("control")
    observed = cells.effect("A+B") - parts
    own = values(rows, "perturbation-mean", "interaction_rmse", "unseen")
    assert own["A+B"] == pytest.approx(np.sqrt(((-mean - observed) ** 2).mean()))
