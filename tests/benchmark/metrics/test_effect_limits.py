"""Scores of effects at the ends, and under what must not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from sklearn.metrics import mean_squared_error, r2_score

from helpers.observed import (
    make_observed,
    make_predicted,
    observed_of,
    of_conditions,
    of_genes,
    of_part,
    per_condition,
)
from samsvae.benchmark.metrics.observed import Observed
from samsvae.benchmark.metrics.registry import Metric, bootstrap, pooled

METRICS = of_part("effects")

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)

CORRELATIONS = [metric.name for metric in METRICS if "pearson" in metric.name]
COEFFICIENTS = [metric.name for metric in METRICS if "r2" in metric.name]
COMPARISONS = ["centroid_accuracy", "perturbation_discrimination", "perturbench_rank"]
"""Scores of a condition among others."""


def named(name: str) -> Metric:
    return next(metric for metric in METRICS if metric.name == name)


def score(name: str, predicted: np.ndarray, observed: Observed) -> np.ndarray:
    return per_condition(named(name), predicted, observed)


def total(metric: Metric, predicted: np.ndarray, observed: Observed) -> float:
    return pooled(metric, metric.statistics(predicted, observed))


@every_metric
def test_a_perfect_prediction_is_the_best(metric: Metric) -> None:
    for n_conditions in (2, 7):
        observed = make_observed(n_conditions)
        values = per_condition(metric, observed.effect, observed)
        np.testing.assert_allclose(values, metric.best, atol=1e-12)
        assert total(metric, observed.effect, observed) == pytest.approx(metric.best, abs=1e-12)


def test_the_largest_effects_need_not_be_the_significant_ones() -> None:
    observed = make_observed()
    noisy = observed.p_control.copy()
    noisy[:, :20] **= 0.2
    observed = replace(observed, p_control=noisy)
    for name in ("de_overlap", "de_auprc"):
        assert total(named(name), observed.effect, observed) < 0.99


@every_metric
def test_the_order_of_conditions_does_not_matter(metric: Metric) -> None:
    observed = make_observed()
    predicted = make_predicted(observed)
    order = np.random.default_rng(2).permutation(7)
    values = per_condition(metric, predicted, observed)[order]
    mixed = per_condition(metric, predicted[order], of_conditions(observed, order))
    np.testing.assert_allclose(mixed, values, rtol=1e-10)


@every_metric
@pytest.mark.parametrize("same", [False, True], ids=["own prediction", "one for all"])
def test_the_order_of_genes_does_not_matter(metric: Metric, same: bool) -> None:
    observed = make_observed()
    predicted = make_predicted(observed)
    if same:
        predicted = np.tile(observed.perturbation_mean, (7, 1))
    order = np.random.default_rng(2).permutation(40)
    values = per_condition(metric, predicted, observed)
    mixed = per_condition(metric, predicted[:, order], of_genes(observed, order))
    np.testing.assert_allclose(mixed, values, rtol=1e-10, atol=1e-12)


@every_metric
def test_single_precision_is_enough_for_predictions(metric: Metric) -> None:
    observed = make_observed()
    predicted = make_predicted(observed).astype(np.float32)
    values = per_condition(metric, predicted.astype(float), observed)
    np.testing.assert_allclose(per_condition(metric, predicted, observed), values, rtol=1e-12)


@every_metric
def test_conditions_that_cannot_be_scored_are_left_out(metric: Metric) -> None:
    observed = make_observed()
    predicted = make_predicted(observed)
    observed.effect[4] = np.nan  # no cells
    observed.p_control[4], observed.t_rest[4] = 1, 0
    kept = [0, 1, 2, 3, 5, 6]
    statistics = metric.statistics(predicted, observed)
    fewer = metric.statistics(predicted[kept], of_conditions(observed, kept))
    assert np.isnan(metric.finish(statistics)[4])
    np.testing.assert_allclose(metric.finish(statistics)[kept], metric.finish(fewer), rtol=1e-12)
    assert pooled(metric, statistics) == pytest.approx(pooled(metric, fewer), rel=1e-12)
    assert bootstrap(metric, statistics) == pytest.approx(bootstrap(metric, fewer), rel=1e-12)
    # Nor are those that are not predicted.
    predicted[1, 3] = np.nan
    assert np.isnan(per_condition(metric, predicted, observed)).tolist() == [
        p in (1, 4) for p in range(7)
    ]
    assert np.isfinite(total(metric, predicted, observed))


@every_metric
def test_one_condition_and_none(metric: Metric) -> None:
    observed = make_observed()
    one, none = of_conditions(observed, [3]), of_conditions(observed, [])
    statistics = metric.statistics(make_predicted(one), one)
    compares = metric.name in COMPARISONS
    assert np.isnan(metric.finish(statistics)).tolist() == [compares]
    assert np.isnan(pooled(metric, statistics)) == compares
    np.testing.assert_array_equal(bootstrap(metric, statistics), [np.nan, np.nan])
    statistics = metric.statistics(np.zeros((0, 40)), none)
    assert len(metric.finish(statistics)) == 0
    assert np.isnan(pooled(metric, statistics))


@every_metric
@pytest.mark.parametrize("value", [0, 0.3])
def test_a_constant_prediction_has_a_score(metric: Metric, value: float) -> None:
    observed = make_observed()
    observed = replace(observed, perturbation_mean=np.full(40, 0.1), targets=((),) * 7)
    predicted = np.full((7, 40), value)
    values = per_condition(metric, predicted, observed)
    assert np.isfinite(values).all()
    share = (false_discovery_control(observed.p_control, axis=1) <= 0.05).mean(1)
    if metric.name in CORRELATIONS:
        assert values.tolist() == [0] * 7
        assert total(metric, predicted, observed) == 0
    elif metric.name in COEFFICIENTS:
        assert (values <= 0).all()
    elif metric.name == "perturbench_rank":
        assert values.tolist() == [0.5] * 7
    elif metric.name in COMPARISONS:
        assert sorted(values) == pytest.approx(np.arange(7) / 6)
    elif metric.name in ("de_overlap", "de_auprc"):
        np.testing.assert_allclose(values, share)
    elif metric.name == "de_sign_agreement" and value == 0:
        assert values.tolist() == [0] * 7


@pytest.mark.parametrize("name", CORRELATIONS + COEFFICIENTS)
def test_a_constant_observation_cannot_be_scored(name: str) -> None:
    observed = make_observed()
    observed = replace(observed, perturbation_mean=np.full(40, 0.1))
    observed.effect[2] = 0.1 + 0.2
    values = score(name, make_predicted(observed), observed)
    assert np.isnan(values).tolist() == [p == 2 for p in range(7)]


def test_the_perturbation_mean_tells_no_conditions_apart() -> None:
    observed = make_observed()
    rough = observed.perturbation_mean.astype(np.float32).astype(float)
    for mean in (observed.perturbation_mean, rough, 1.1 * observed.perturbation_mean - 0.1 * rough):
        predicted = np.tile(mean, (7, 1))
        assert score("pearson_from_perturbation_mean", predicted, observed).tolist() == [0] * 7
        assert score("perturbench_rank", predicted, observed).tolist() == [0.5] * 7
        assert score("centroid_accuracy", predicted, observed).mean() == pytest.approx(0.5)
    assert score("pearson_from_control", predicted, observed).max() > 0.3
    real = predicted * (1 + 1e-4 * make_predicted(observed))  # a small difference is one
    assert np.abs(score("pearson_from_perturbation_mean", real, observed)).min() > 0


def test_weights_by_hand() -> None:
    t_rest = np.array([[-1, 3, 5]])  # so weights as 0 : 2^2 : 4^2
    observed = observed_of([[1, 2, 4]], t_rest=t_rest)
    predicted = np.zeros((1, 3))
    assert score("weighted_mse", predicted, observed) == pytest.approx(0.2 * 4 + 0.8 * 16)
    variance = 0.2 * (2 - 3.6) ** 2 + 0.8 * (4 - 3.6) ** 2
    assert score("weighted_r2_from_control", predicted, observed) == pytest.approx(
        1 - 13.6 / variance
    )


def test_weights_are_uniform_where_no_gene_stands_out() -> None:
    observed = make_observed()
    observed.t_rest[1] = -2.5
    predicted = make_predicted(observed)
    expected = mean_squared_error(observed.effect[1], predicted[1])
    assert score("weighted_mse", predicted, observed)[1] == pytest.approx(expected)
    expected = r2_score(observed.effect[1], predicted[1])
    assert score("weighted_r2_from_control", predicted, observed)[1] == pytest.approx(expected)
