"""Scores of effects against independent values; intervals over conditions; interactions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, pearsonr, rankdata
from sklearn.metrics import average_precision_score, mean_squared_error, r2_score

from helpers.observed import make_observed, make_predicted, of_part, per_condition
from helpers.statistics import errors
from samsvae.benchmark.metrics.effects import interaction
from samsvae.benchmark.metrics.observed import Observed
from samsvae.benchmark.metrics.registry import Metric, bootstrap, pooled

METRICS = of_part("effects")
INTERACTION_METRICS = of_part("interactions")

MEAN = next(metric for metric in METRICS if metric.name == "mae")
"""A metric whose pooled score is the mean of its one statistic."""

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


# Independent values of one condition.


def top(observed: Observed, p: int) -> list[int]:
    return sorted(range(len(observed.genes)), key=lambda g: -abs(observed.effect[p, g]))[:20]


def weights(observed: Observed, p: int) -> np.ndarray:
    t = np.abs(observed.t_rest[p])
    return ((t - min(t)) / (max(t) - min(t))) ** 2


def significant(observed: Observed, p: int) -> np.ndarray:
    return false_discovery_control(observed.p_control[p]) <= 0.05


def farther(a: np.ndarray, o: Observed, p: int) -> float:
    own = np.linalg.norm(a[p] - o.effect[p])
    others = [d for q, d in enumerate(o.effect) if q != p]
    return float(np.mean([np.linalg.norm(a[p] - d) > own for d in others]))


def discrimination(a: np.ndarray, o: Observed, p: int) -> float:
    kept = [g for g in range(len(o.genes)) if g not in o.targets[p]]
    rank = rankdata([np.abs(a[p, kept] - d[kept]).sum() for d in o.effect])[p]
    return 1 - (rank - 1) / (len(o.effect) - 1)


def prediction_rank(a: np.ndarray, o: Observed, p: int) -> float:
    rank = rankdata([mean_squared_error(b, o.effect[p]) ** 0.5 for b in a])[p]
    return float((rank - 1) / (len(a) - 1))


def overlap(a: np.ndarray, o: Observed, p: int) -> float:
    wanted = set(np.flatnonzero(significant(o, p)))
    largest = np.argsort(-np.abs(a[p]))[: len(wanted)]
    return len(wanted & set(largest)) / len(wanted)


def sign_agreement(a: np.ndarray, o: Observed, p: int) -> float:
    pairs = [(a[p, g], o.effect[p, g]) for g in np.flatnonzero(significant(o, p))]
    return float(np.mean([(x > 0) == (y > 0) for x, y in pairs]))


Value = Callable[[np.ndarray, Observed, int], float]

EXPECTED: dict[str, Value] = {
    "ate_pearson": lambda a, o, p: pearsonr(a[p], o.effect[p])[0],
    "ate_pearson_observed_size": lambda a, o, p: pearsonr(a[p], o.effect[p])[0],
    "ate_pearson_top20": lambda a, o, p: pearsonr(a[p, top(o, p)], o.effect[p, top(o, p)])[0],
    "ate_r2": lambda a, o, p: r2_score(o.effect[p], a[p]),
    "ate_r2_top20": lambda a, o, p: r2_score(o.effect[p, top(o, p)], a[p, top(o, p)]),
    "rmse": lambda a, o, p: mean_squared_error(o.effect[p], a[p]) ** 0.5,
    "mae": lambda a, o, p: sum(abs(a[p] - o.effect[p])) / a.shape[1],
    "pearson_from_control": lambda a, o, p: pearsonr(a[p], o.effect[p])[0],
    "pearson_from_perturbation_mean": lambda a, o, p: pearsonr(
        a[p] - o.perturbation_mean, o.effect[p] - o.perturbation_mean
    )[0],
    "weighted_mse": lambda a, o, p: np.average((a[p] - o.effect[p]) ** 2, weights=weights(o, p)),
    "weighted_r2_from_control": lambda a, o, p: r2_score(
        o.effect[p], a[p], sample_weight=weights(o, p)
    ),
    "centroid_accuracy": farther,
    "perturbation_discrimination": discrimination,
    "perturbench_rank": prediction_rank,
    "de_overlap": overlap,
    "de_auprc": lambda a, o, p: average_precision_score(significant(o, p), abs(a[p])),
    "de_sign_agreement": sign_agreement,
}

EVERYTHING: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "ate_pearson": lambda a, d: pearsonr(a, d)[0],
    "ate_pearson_observed_size": lambda a, d: pearsonr(a, d)[0],
    "ate_r2": lambda a, d: r2_score(d, a),
    "rmse": lambda a, d: mean_squared_error(d, a) ** 0.5,
}
"""Pooled scores of conditions x genes in one row; the other metrics' are means over conditions."""


def test_the_metrics() -> None:
    assert {metric.name for metric in METRICS} == set(EXPECTED)
    assert len(METRICS) == len(EXPECTED)
    fixed = {metric.name for metric in METRICS if metric.library_size == "fixed"}
    correlations = {name for name in EXPECTED if "pearson" in name}
    assert fixed == correlations - {"ate_pearson_observed_size"}
    zero = {metric.name for metric in METRICS if metric.best == 0}
    assert zero == {"rmse", "mae", "weighted_mse", "perturbench_rank"}


@every_metric
def test_every_metric_equals_an_independent_value(metric: Metric) -> None:
    observed = make_observed()
    predicted = make_predicted(observed)
    expected = [EXPECTED[metric.name](predicted, observed, p) for p in range(7)]
    assert len(set(expected)) > 2
    np.testing.assert_allclose(per_condition(metric, predicted, observed), expected, atol=1e-12)
    own = metric.name.removesuffix("_top20")
    if own in EVERYTHING:
        genes = [top(observed, p) if own != metric.name else range(40) for p in range(7)]
        pairs = [(predicted[p, g], observed.effect[p, g]) for p in range(7) for g in genes[p]]
        wanted = EVERYTHING[own](*np.transpose(pairs))
    else:
        wanted = np.mean(expected)
    assert pooled(metric, metric.statistics(predicted, observed)) == pytest.approx(
        wanted, abs=1e-12
    )


# Intervals over conditions.


@every_metric
def test_the_bootstrap_equals_a_plain_loop(metric: Metric) -> None:
    observed = make_observed()
    statistics = metric.statistics(make_predicted(observed), observed)
    rng = np.random.default_rng(5)
    scores = []
    for _ in range(300):
        times = rng.multinomial(7, [1 / 7] * 7)
        scores.append(pooled(metric, np.repeat(statistics, times, axis=0)))
    expected = np.quantile(scores, [0.1, 0.9])
    interval = bootstrap(metric, statistics, n_draws=300, seed=5, level=0.8)
    np.testing.assert_allclose(interval, expected, rtol=1e-10, atol=1e-14)
    assert interval == bootstrap(metric, statistics, n_draws=300, seed=5, level=0.8)
    low, high = bootstrap(metric, statistics)
    assert low <= interval[0] <= interval[1] <= high


def test_another_seed_draws_other_conditions() -> None:
    statistics = np.random.default_rng(0).normal(size=(50, 1))
    assert bootstrap(MEAN, statistics) != bootstrap(MEAN, statistics, seed=1)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    n_repeats, level = 400, 0.9
    hits = 0
    for seed in range(n_repeats):
        statistics = 3 + rng.normal(size=(200, 1))
        low, high = bootstrap(MEAN, statistics, n_draws=400, seed=seed, level=level)
        hits += low < 3 < high
    allowed = errors() * np.sqrt(level * (1 - level) / n_repeats)
    assert hits / n_repeats == pytest.approx(level, abs=allowed)


# Interactions.


def test_interactions_by_hand() -> None:
    table = pd.DataFrame(
        [[1.0, 2], [10, 30], [5, 5], [np.nan, 0]], ["A", "B", "A+B", "C"], ["g", "h"]
    )
    table.loc["A+C"] = 1.0
    table.loc["A+A+B"] = 0.0
    parts = {"A+B": ["A", "B"], "A+C": ["A", "C"], "A+A+B": ["A", "A", "B"]}
    values = interaction(table, parts)
    np.testing.assert_array_equal(values, [[-6, -27], [np.nan, -1], [-12, -34]])
    statistics = [metric.statistics(values, values) for metric in INTERACTION_METRICS]
    assert [np.isnan(rows).any(1).tolist() for rows in statistics] == [[False, True, False]] * 2
    assert interaction(table, {}).shape == (0, 2)
    with pytest.raises(KeyError, match="D"):
        interaction(table, {"A+B": ["A", "D"]})


def test_scores_of_interactions() -> None:
    rng = np.random.default_rng(0)
    a, d = rng.normal(size=(2, 5, 30))
    a += d
    pearson, rmse = INTERACTION_METRICS
    assert (pearson.name, rmse.name) == ("interaction_pearson", "interaction_rmse")
    assert (pearson.library_size, rmse.library_size) == ("fixed", "observed")
    for metric in INTERACTION_METRICS:
        np.testing.assert_allclose(per_condition(metric, d, d), metric.best, atol=1e-12)
    assert pooled(pearson, pearson.statistics(a, d)) == pytest.approx(
        pearsonr(a.ravel(), d.ravel())[0]
    )
    assert pooled(rmse, rmse.statistics(a, d)) == pytest.approx(
        mean_squared_error(d.ravel(), a.ravel()) ** 0.5
    )


def test_additive_predictions_have_no_interaction() -> None:
    rng = np.random.default_rng(0)
    single = pd.DataFrame(rng.normal(size=(3, 50)).astype(np.float32), ["A", "B", "C"])
    single.loc["A+B+C"] = (single.loc["C"] + (single.loc["A"] + single.loc["B"])).astype("f4")
    values = interaction(single, {"A+B+C": ["A", "B", "C"]})
    assert not values.any()
    assert per_condition(INTERACTION_METRICS[0], values, rng.normal(size=(1, 50))) == 0
