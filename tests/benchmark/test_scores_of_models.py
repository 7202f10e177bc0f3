"""Scores of models: errors, coverage and likelihood, beside baselines or alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import norm

from helpers.scores import (
    BARE,
    BY_HAND,
    CORRELATIONS,
    INTERVALS,
    QUICK,
    SCORED,
    Cells,
    by_hand,
    dense_logs,
    in_split,
    same,
    scored,
    task_of,
    values,
)
from helpers.screens import make_adata, read
from samsvae import Screen
from samsvae.benchmark.baselines import BASELINES, Additive, ConditionMean
from samsvae.benchmark.evaluate import DIFFERENCES
from samsvae.estimators.base import Estimator
from samsvae.runs.jobs import score
from samsvae.settings.fields import settings_of
from samsvae.settings.questions import ScoreSettings


@pytest.mark.parametrize("basal", ["prior", "control"])
def test_errors_of_a_model_are_at_observed_library_sizes(
    basal: Any, trained: Estimator, whole: Screen
) -> None:
    rows = scored(trained, whole, basal=basal, seed=2, **BARE)
    assert rows.attrs["basal"] == basal
    asked: dict[str, Any] = {"n_particles": 50, "basal": basal, "seed": 2, "progress": False}
    fixed = trained.effects(SCORED, **asked, n_draws=0, scale="log").to_df()
    observed = trained.effects(
        SCORED, **asked, n_draws=10, library_size="observed", scale="log"
    ).to_df()
    cells = Cells(whole, in_split(whole, "test"))
    seen = {name: cells.effect(name) for name in SCORED}
    for metric in BY_HAND:
        effects = fixed if metric in CORRELATIONS else observed
        predicted = {name: effects.loc[name].to_numpy() for name in SCORED}
        expected = by_hand(metric, predicted, seen)
        assert values(rows, "sams-vae", metric) == pytest.approx(expected, rel=1e-4)
    predicted = {name: observed.loc[name].to_numpy() for name in SCORED}
    expected = by_hand("ate_pearson", predicted, seen)
    own = values(rows, "sams-vae", "ate_pearson_observed_size")
    assert own == pytest.approx(expected, rel=1e-4)


def test_coverage_cell_by_cell(trained: Estimator, whole: Screen, table: pd.DataFrame) -> None:
    effects = trained.effects(
        SCORED, scale="log", n_particles=50, n_draws=10, library_size="observed", progress=False
    )
    dense, test = dense_logs(whole.counts), in_split(whole, "test")
    label = np.array(whole.condition_names)[whole.condition]
    control = dense[test & (label == "control")]
    for level, ends in ((0.5, ("lower_50", "upper_50")), (0.9, ("lower", "upper"))):
        expected = {}
        for i, name in enumerate(SCORED):
            own = dense[test & (label == name)]
            squares = ((own - own.mean(0)) ** 2).sum(0) + ((control - control.mean(0)) ** 2).sum(0)
            n, m = len(own), len(control)
            error = norm.ppf((1 + level) / 2) * np.sqrt(squares / (n + m - 2) * (1 / n + 1 / m))
            ate = np.asarray(effects.X[i], float)
            low, high = (np.asarray(effects.layers[end][i], float) for end in ends)
            distance = own.mean(0) - control.mean(0) - ate
            inside = (-np.hypot(ate - low, error) <= distance) & (
                distance <= np.hypot(high - ate, error)
            )
            expected[name] = inside.mean()
        expected["(all)"] = np.mean(list(expected.values()))
        found_ = values(table, "sams-vae", f"coverage_{level:.0%}".rstrip("%"))
        assert found_ == pytest.approx(expected)
        assert expected["(all)"] > 0


def test_the_variance_that_intervals_claim_cell_by_cell(
    trained: Estimator, whole: Screen, table: pd.DataFrame
) -> None:
    effects = trained.effects(
        SCORED, scale="log", n_particles=50, n_draws=10, library_size="observed", progress=False
    )
    observed = task_of(whole).observation().observed
    assert observed.conditions == tuple(SCORED)
    ate, low, high = (
        np.asarray(values, float)
        for values in (effects.X, effects.layers["lower"], effects.layers["upper"])
    )
    claimed = ((ate - low) ** 2 + (high - ate) ** 2) / 2 / norm.ppf(0.95) ** 2
    excess = (observed.effect - ate) ** 2 - observed.standard_error**2
    own = values(table, "sams-vae", "variance_ratio")
    assert own["(all)"] == pytest.approx(claimed.mean() / excess.mean())
    for row, name in enumerate(SCORED):
        expected = claimed[row].mean() / excess[row].mean()
        assert own[name] == pytest.approx(expected if expected > 0 else np.inf)


def test_coverage_like_that_of_no_intervals_is_called_uninformative(
    trained: Estimator, whole: Screen
) -> None:
    few = np.asarray(whole.split).astype(object)
    for name in SCORED:  # two test cells of each condition: the sampling error is all there is
        of_name = whole.condition == whole.position_of_condition[name]
        few[np.flatnonzero((few == "test") & of_name)[2:]] = "unused"
    rows = scored(trained, whole.with_split(few), **BARE)
    assert rows.attrs["uninformative_coverage"] == [("sams-vae", "test")]


def test_without_a_posterior_there_is_no_coverage(
    without_posterior: Estimator, trained: Estimator, whole: Screen
) -> None:
    rows = scored([without_posterior, ConditionMean(whole)], whole, **BARE)
    own = set(rows.loc[rows["predictor"] == "conditional-vae", "metric"])
    assert {"iwelbo", "mae"} <= own
    assert not rows.loc[rows["metric"].isin(INTERVALS), "value"].notna().any()
    no_draws = scored(trained, whole, **BARE, n_draws=0)
    assert not no_draws.loc[no_draws["metric"].isin(INTERVALS), "value"].notna().any()


def test_the_iwelbo_is_the_mean_over_cells(
    trained: Estimator, whole: Screen, table: pd.DataFrame
) -> None:
    cells = trained.iwelbo(whole.test, n_particles=20, progress=False)["iwelbo"].to_numpy()
    label = np.array(whole.condition_names)[whole.test.condition]
    expected = {name: cells[label == name].mean() for name in np.unique(label)}
    own = values(table, "sams-vae", "iwelbo")
    assert own == pytest.approx({**expected, "(all)": cells.mean()})


def test_conditions_count_by_their_cells_in_the_iwelbo(trained: Estimator, whole: Screen) -> None:
    screen = whole[~in_split(whole, "test") | whole.is_control | (np.arange(240) < 60)]
    sizes = {len(screen.test.of(name)) for name in whole.conditions}
    assert len(sizes) > 1
    rows = scored(trained, screen, **BARE)
    cells = trained.iwelbo(screen.test, n_particles=20, progress=False)["iwelbo"]
    assert values(rows, "sams-vae", "iwelbo")["(all)"] == pytest.approx(cells.mean())


def test_a_model_meets_its_genes_by_name(trained: Estimator, whole: Screen) -> None:
    adata = make_adata()
    more = AnnData(
        np.hstack([adata.X, adata.X[:, :2] + 1]),
        obs=adata.obs,
        var=pd.DataFrame(index=[*adata.var_names, "x", "y"]),
    )
    mixed = read(more[:, np.random.default_rng(0).permutation(14)].copy())
    with pytest.warns(UserWarning, match="^2 genes of the data are ignored"):
        ours = scored([trained, Additive(whole)], mixed)
    same(ours, scored([trained, Additive(whole)], whole), rtol=1e-7, atol=1e-12)


def test_a_model_beside_all_baselines(trained: Estimator, whole: Screen) -> None:
    table = scored([trained, *(kind(whole) for kind in BASELINES)], whole, scale="lfc")
    mixed = read(
        make_adata()[:, ::-1].copy()
    )  # baselines learn from it as it is matched to the model
    given = ScoreSettings(**settings_of(ScoreSettings, QUICK))
    rows = score(trained, mixed, given).scores
    with_data = rows["predictor"] == "sams-vae, with data"  # what model and cells say together
    assert np.isfinite(
        rows[with_data].set_index(["condition", "metric"]).loc["(all)"].loc["rmse", "value"]
    )
    without = dict.fromkeys(DIFFERENCES, 0.0)  # these are from the model with data
    own = rows[~with_data].reset_index(drop=True).assign(**without)
    same(own, table.assign(**without), rtol=1e-7, atol=1e-9)
