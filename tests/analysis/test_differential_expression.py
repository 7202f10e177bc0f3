"""Differential expression and the score of effects, against independent values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import make_adata
from samsvae.runs.jobs import score
from samsvae.settings.questions import ScoreSettings
from samsvae.types import Scale


def test_differential_expression_by_hand(screen: samsvae.Screen) -> None:
    counts = screen.counts.toarray().astype(float)
    values = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    label = np.array(screen.condition_names)[screen.condition]
    table = samsvae.differential_expression(screen, scale="log")
    assert list(table.index) == ["A", "A+B", "B", "C"]
    for name in table.index:
        expected = values[label == name].mean(0) - values[label == "control"].mean(0)
        np.testing.assert_allclose(table.loc[name], expected, rtol=1e-10)
    normalized = samsvae.differential_expression(screen, ["B"], scale="normalized")
    share = 1e4 * counts / counts.sum(1, keepdims=True)
    expected = share[label == "B"].mean(0) - share[label == "control"].mean(0)
    np.testing.assert_allclose(normalized.loc["B"], expected, rtol=1e-10)


def test_a_condition_without_cells_has_no_differential_expression(screen: samsvae.Screen) -> None:
    rest = screen[screen.condition != screen.condition_names.index("B")]
    table = samsvae.differential_expression(rest, ["A", "B"])
    assert table.loc["A"].notna().all()
    assert table.loc["B"].isna().all()
    with pytest.raises(samsvae.InputError, match="no perturbation 'nobody'"):
        samsvae.differential_expression(rest, ["A", "nobody"])
    with pytest.raises(samsvae.InputError, match="no control cells"):
        samsvae.differential_expression(screen[~screen.is_control])


def test_ate_pearson_by_hand(screen: samsvae.Screen) -> None:
    rng = np.random.default_rng(0)
    names = ["C", "B", "A+B", "A"]
    effects = pd.DataFrame(rng.normal(size=(4, 12)), names, list(screen.genes))
    own = samsvae.differential_expression(screen.test, scale="log").loc[names].to_numpy()
    result = samsvae.ate_pearson(effects, screen.test, scale="log", n_top=3)
    ate = effects.to_numpy()
    assert result.pooled == pytest.approx(np.corrcoef(ate.ravel(), own.ravel())[0, 1])
    top = [np.argsort(-np.abs(row))[:3] for row in own]
    pairs = [(ate[i, g], own[i, g]) for i in range(4) for g in top[i]]
    assert result.top == pytest.approx(np.corrcoef(np.transpose(pairs))[0, 1])
    per_condition = [np.corrcoef(ate[i], own[i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(result.per_condition.loc[names], per_condition)
    assert result.median == pytest.approx(np.median(per_condition))


def test_control_and_conditions_without_cells_are_not_scored(screen: samsvae.Screen) -> None:
    names = ["control", "A", "A+C"]
    rng = np.random.default_rng(0)
    effects = pd.DataFrame(rng.normal(size=(3, 12)), names, list(screen.genes))
    result = samsvae.ate_pearson(effects, screen.test)
    assert list(result.per_condition.index) == ["A"]
    with pytest.raises(samsvae.InputError, match="no condition to score"):
        samsvae.ate_pearson(effects.loc[["control"]], screen.test)


def test_a_perfect_prediction_scores_one(screen: samsvae.Screen) -> None:
    result = samsvae.ate_pearson(samsvae.differential_expression(screen), screen)
    assert result.pooled == pytest.approx(1)
    assert result.top == pytest.approx(1)
    assert result.median == pytest.approx(1)


@pytest.mark.parametrize("scale", ["lfc", "log"])
def test_the_metric_is_the_function(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, scale: Scale
) -> None:
    """One name, one number; and the likelihood is that of the model."""
    options = {"n_particles": 5, "effect_particles": 50, "progress": False}
    table = samsvae.evaluate(trained, screen, scale=scale, n_halvings=0, n_cells=0, **options)
    scores = table.set_index(["condition", "metric"])["value"]
    effects = trained.effects(scale=scale, n_particles=50, n_draws=0, progress=False)
    own = samsvae.ate_pearson(effects.to_df(), screen.test, scale=scale)
    assert scores["(all)", "ate_pearson"] == pytest.approx(own.pooled)
    assert scores["(all)", "ate_pearson_top20"] == pytest.approx(own.top)
    for name, value in own.per_condition.items():
        assert scores[name, "pearson_from_control"] == pytest.approx(value)
    iwelbo = trained.iwelbo(screen.test, n_particles=5, progress=False)
    assert scores["(all)", "iwelbo"] == pytest.approx(iwelbo["iwelbo"].mean())
    mc_se = table.set_index(["condition", "metric"])["mc_se"]["(all)", "iwelbo"]
    assert mc_se == pytest.approx(iwelbo.attrs["mean_mc_se"])


def test_scores_do_not_depend_on_the_order_of_cells_and_genes(trained: samsvae.SAMSVAE) -> None:
    adata = make_adata()
    rng = np.random.default_rng(0)
    mixed = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    options = {"n_particles": 2, "effect_particles": 40, "n_halvings": 0, "n_cells": 0}
    results = [
        score(
            trained,
            samsvae.Screen.from_anndata(data, split_key="split"),
            ScoreSettings(**options, progress=False),
            baselines=False,
        ).summary("sams-vae")["test"]
        for data in (adata, mixed)
    ]
    for name in ("ate_pearson", "ate_pearson_top20", "pearson_from_control"):
        assert results[0][name] == pytest.approx(results[1][name])
