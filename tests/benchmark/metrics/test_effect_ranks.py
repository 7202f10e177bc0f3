"""Ranks of conditions and of genes by hand, with ties; coverage of intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm
from sklearn.metrics import average_precision_score

from helpers.observed import observed_of
from helpers.statistics import errors
from samsvae.benchmark.metrics import effects as ranks
from samsvae.benchmark.metrics.effects import (
    centroid_accuracy,
    coverage,
    de_auprc,
    de_overlap,
    de_sign_agreement,
    perturbation_discrimination,
    perturbench_rank,
)
from samsvae.benchmark.metrics.observed import significant


def test_ranks_by_hand() -> None:
    # On a line: conditions at 0, 1, 2 and 10, predicted at 0.9, 1.5, 2.1 and 1.5.
    observed = observed_of([[0], [1], [2], [10]])
    predicted = np.array([[0.9], [1.5], [2.1], [1.5]])
    # Closer to a prediction than its own: one; as far: one; none; all.
    accuracy = [2 / 3, 2.5 / 3, 1, 0]
    np.testing.assert_allclose(centroid_accuracy(predicted, observed), accuracy)
    np.testing.assert_allclose(perturbation_discrimination(predicted, observed), accuracy)
    # Closer to a condition than its own prediction: none; one, another as far; none; the same.
    late = [0, 1.5 / 3, 0, 1.5 / 3]
    np.testing.assert_allclose(perturbench_rank(predicted, observed), late)


def test_distances_are_those_their_papers_take() -> None:
    # The same prediction is closer to the first by L1, to the second by L2.
    observed = observed_of([[3, 0], [2, 2]])
    predicted = np.zeros((2, 2))
    assert centroid_accuracy(predicted, observed).tolist() == [0, 1]
    assert perturbation_discrimination(predicted, observed).tolist() == [1, 0]
    assert perturbench_rank(observed.effect, observed_of(np.zeros((2, 2)))).tolist() == [1, 0]


def test_what_a_condition_perturbs_does_not_tell_it() -> None:
    observed = observed_of([[-9, 0, 1], [0, -9, 0]])
    predicted = np.array([[-9, 0, 0.2], [0, -9, 0.8]])
    assert perturbation_discrimination(predicted, observed).tolist() == [1, 1]
    masked = replace(observed, targets=((0, 1), (0, 1)))
    assert perturbation_discrimination(predicted, masked).tolist() == [0, 0]
    # Its own targets only, whatever is said of them.
    masked = replace(observed, targets=((0,), ()))
    predicted[0, 0] = 50
    assert perturbation_discrimination(predicted, masked).tolist() == [1, 1]
    assert centroid_accuracy(predicted, masked).tolist() == [0, 1]


@pytest.mark.parametrize("n_genes", [3, 2000])
def test_ties_are_ties_whatever_the_rounding(n_genes: int) -> None:
    rng = np.random.default_rng(0)
    effect, nothing = rng.normal(size=n_genes), np.zeros((6, n_genes))
    tied = observed_of([rng.permutation(effect) for _ in range(6)])  # sums in another order
    assert centroid_accuracy(nothing, tied).tolist() == [0.5] * 6
    assert perturbation_discrimination(nothing, tied).tolist() == [0.5] * 6
    assert perturbench_rank(tied.effect, observed_of(nothing)).tolist() == [0.5] * 6
    # Small differences are no ties.
    apart = observed_of(tied.effect * (1 + 1e-6 * np.arange(6))[:, None])
    expected = pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert centroid_accuracy(nothing, apart).tolist() == expected
    assert perturbation_discrimination(nothing, apart).tolist() == expected
    assert (1 - perturbench_rank(apart.effect, observed_of(nothing))).tolist() == expected


def test_conditions_that_differ_in_targets_alone_tie() -> None:
    rng = np.random.default_rng(0)
    effect = np.hstack([rng.normal(size=(5, 7)), np.full((5, 30), 0.1)])
    observed = observed_of(effect, targets=[tuple(range(6, -1, -1))] * 5)
    for predicted in (np.full((5, 37), 1 / 3), np.full((5, 37), 0.1)):
        assert perturbation_discrimination(predicted, observed).tolist() == [0.5] * 5


def test_significant_genes_are_those_of_benjamini_and_hochberg() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((20, 200)) ** np.linspace(0.5, 8, 20)[:, None]
    p[3] = 1
    p[4] = 1e-9
    p[5, :50] = p[5, 50]  # ties
    observed = observed_of(rng.normal(size=p.shape), p=p)
    for rate in (0.05, 0.2):
        expected = false_discovery_control(p, axis=1) <= rate
        np.testing.assert_array_equal(significant(observed.p_control, rate), expected)
    assert len(set(observed.significant.sum(1))) > 8
    assert observed.significant[[3, 4]].sum(1).tolist() == [0, 200]


def test_overlap_counts_ties_as_random_order_would() -> None:
    significant_genes = np.array([True, False, True, True, False, False])
    observed = observed_of(np.ones((1, 6)), p=np.where(significant_genes, 1e-6, 1)[None])
    for predicted in ([3, 1, 1, 1, 1, 0], [2, 2, -2, 1, 0, 0], [0] * 6, [5, -4, 3, 2, 1, 0.0]):
        size = np.abs(predicted)
        found = [
            significant_genes[sorted(order, key=lambda g: -size[g])[:3]].mean()
            for order in permutations(range(6))
        ]
        assert de_overlap(np.array([predicted]), observed)[0] == pytest.approx(np.mean(found))


def test_average_precision_with_ties_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = np.where(rng.random((30, 25)) < 0.3, 1e-9, 1)
    predicted = rng.integers(-3, 4, p.shape) * rng.integers(0, 2, (30, 1))
    observed = observed_of(rng.normal(size=p.shape), p=p)
    expected = [
        average_precision_score(row < 0.5, abs(a)) for row, a in zip(p, predicted, strict=True)
    ]
    np.testing.assert_allclose(de_auprc(predicted, observed), expected)


def test_signs_by_hand_and_conditions_without_significant_genes() -> None:
    p = [[1e-9, 1e-9, 1e-9, 1], [1, 1, 1, 1], [1e-9] * 4]
    observed = observed_of([[1, -1, 2, -1], [1, 1, 1, 1], [-1, 1, 1, 1]], p=p)
    predicted = np.array([[3, 2, 0, -1], [1, 1, 1, 1], [-2, 3, 1, -1]])
    agreement = de_sign_agreement(predicted, observed)
    np.testing.assert_allclose(agreement, [1 / 3, np.nan, 3 / 4])
    np.testing.assert_allclose(de_overlap(predicted, observed)[1:], [np.nan, 1])
    np.testing.assert_allclose(de_auprc(predicted, observed)[1:], [np.nan, 1])


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("error", [0.0001, 1, 10])
def test_a_calibrated_model_covers_as_often_as_it_says(level: float, error: float) -> None:
    rng = np.random.default_rng(0)
    shape = (20, 2000)
    ate, sd = rng.normal(size=shape), rng.gamma(2, 0.5, shape)
    true = ate + sd * rng.normal(size=shape)
    observed = observed_of(true + error * rng.normal(size=shape), error=error)
    half = norm.isf((1 - level) / 2) * sd
    share = coverage(ate - half, ate + half, ate, observed, level)
    assert share.shape == (20,)
    allowed = errors(6) * np.sqrt(level * (1 - level) / true.size)
    assert share.mean() == pytest.approx(level, abs=allowed)


def test_coverage_by_hand() -> None:
    # z is 1 at this level: from 3, 4 and 12, 5, the first interval is -5 to 13 about 0.
    level = 1 - 2 * norm.sf(1)
    effect = np.array([[-5.01, -4.99, 12.99, 13.01, 12], [0] * 5, [0, 99, 99, 0, 0], [0] * 5])
    error = np.array([[4.0, 4, 5, 5, 5], [0, 0, np.nan, 0, 0], [1, 0, np.nan, 1, 1], [1] * 5])
    lower, upper = np.tile([[-3.0], [0], [-1], [-1]], 5), np.tile([[12.0], [0], [1], [1]], 5)
    lower[3], upper[3, 2] = np.nan, np.nan
    upper[2, 1] = np.nan  # of a gene that is left out
    observed = observed_of(effect, error=error)
    share = coverage(lower, upper, np.zeros((4, 5)), observed, level)
    np.testing.assert_array_equal(share, [0.6, np.nan, 1, np.nan])
    # The condition that is shifted by its ATE is covered as well.
    moved = replace(observed, effect=observed.effect + 7)
    moved_share = coverage(lower + 7, upper + 7, np.full((4, 5), 7.0), moved, level)
    np.testing.assert_array_equal(moved_share, share)


def test_an_interval_that_does_not_hold_the_effect_lies_where_it_lies() -> None:
    """From 1 to 2, of an effect of 0: it covers 1.5 and not -1.5, whatever its sign."""
    effect = np.array([[1.5, -1.5, 1.5, -1.5]])
    lower, upper = np.array([[1.0, 1.0, -2.0, -2.0]]), np.array([[2.0, 2.0, -1.0, -1.0]])
    observed = observed_of(effect, error=1e-6)
    assert coverage(lower, upper, np.zeros((1, 4)), observed) == 0.5
    wide = observed_of(effect, error=1.0)  # 1.64 around the near end: to -0.64, or 0.64
    assert coverage(lower, upper, np.zeros((1, 4)), wide) == 0.5


@pytest.mark.parametrize(
    "score", [centroid_accuracy, perturbation_discrimination, perturbench_rank]
)
def test_some_rows_at_a_time_are_all_rows(
    score: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(17, 6))
    effect[4] = np.nan
    effect[8] = effect[9]  # a tie
    predicted = effect + rng.normal(size=effect.shape)
    observed = replace(observed_of(effect.tolist()), targets=[[i % 6] for i in range(17)])
    whole = score(predicted, observed)
    monkeypatch.setattr(ranks, "_MAX_PAIRS", 40)
    np.testing.assert_array_equal(score(predicted, observed), whole)


@pytest.mark.parametrize(
    "score", [centroid_accuracy, perturbation_discrimination, perturbench_rank]
)
def test_of_many_conditions_each_is_compared_with_some(
    score: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(900, 6))
    effect[4] = np.nan
    predicted = effect + rng.normal(size=effect.shape)
    observed = replace(observed_of(effect.tolist()), targets=[[i % 6] for i in range(900)])
    whole = score(predicted, observed)
    monkeypatch.setattr(ranks, "OTHERS", 300)
    some = score(predicted, observed)
    known = np.arange(900) != 4
    assert np.isnan(some[4])
    assert (some != whole)[known].any()
    # A share of 300 of 898, drawn without replacement.
    sd = np.sqrt(np.maximum(whole * (1 - whole), 1 / 300) / 300 * (1 - 300 / 898))
    assert (np.abs(some - whole) <= errors(3 * 900) * sd)[known].all()
    monkeypatch.setattr(ranks, "_CHUNK", 7)  # in whatever portions
    np.testing.assert_array_equal(score(predicted, observed)[known], some[known])
    # Chance stays chance, and the best there is the best.
    effect = effect[known]
    observed = observed_of(effect)
    constant = np.ones_like(effect)
    assert score(constant, observed).mean() == pytest.approx(0.5, abs=1e-12)
    assert set(score(effect, observed)) == {0.0 if score is perturbench_rank else 1.0}


def test_distances_are_never_taken_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    distance = ranks._squared_distance

    def noted(a: np.ndarray, b: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(a) * len(b))
        return distance(a, b, rows)

    monkeypatch.setattr(ranks, "_squared_distance", noted)
    effect = np.random.default_rng(0).normal(size=(5000, 2))
    centroid_accuracy(effect, observed_of(effect))
    assert max(sizes) <= ranks._MAX_PAIRS
    assert sum(sizes) < 1.2 * 5000 * ranks.OTHERS
