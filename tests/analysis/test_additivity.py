"""Effects of combinations without cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samsvae.analysis.additivity import Additivity, SumsOfParts, fitted_additivity
from samsvae.analysis.mixture import (
    GRID,
    EffectPrior,
    Mixture,
    MixtureWeights,
    ObservedEffects,
    PredictedEffects,
    Reliability,
)

N_GENES = 400
NOISE = 0.01


def mixture(null: float, mean: float, sd: float) -> Mixture:
    """Return a null component, and two others of the same moments."""
    weight = np.array([[null], [(1 - null) / 2], [(1 - null) / 2]])
    means, variances = np.array([[0.0], [mean], [mean]]), np.array([[0.0], [sd**2], [sd**2]])
    return Mixture(weight, means, variances)


def test_the_sum_of_effects_has_the_sum_of_their_moments() -> None:
    first, second, third = mixture(0.5, 1, 0.1), mixture(0.2, -2, 0.3), mixture(0.9, 3, 0.2)
    total = first.plus(second).plus(third)
    parts = [part.moments for part in (first, second, third)]
    np.testing.assert_allclose(total.moments, np.sum(parts, axis=0), rtol=1e-9)
    assert total.weight[0, 0] == pytest.approx(0.5 * 0.2 * 0.9)
    np.testing.assert_allclose(total.weight.sum(0), 1)


def measured(
    n: int, *, share: float = 0.0, slope: float = 0.0, trained_on: float = 0.0, seed: int = 0
) -> tuple[ObservedEffects, np.ndarray, np.ndarray, np.ndarray]:
    """Return combinations whose effects are the sum, and more; and what is known of it."""
    rng = np.random.default_rng(seed)
    additive, non_additive = rng.normal(size=(n, N_GENES)), 0.5 * rng.normal(size=(n, N_GENES))
    effect = additive * (1 + slope**0.5 * rng.normal(size=additive.shape)) + share * non_additive
    shown = effect + NOISE**0.5 * rng.normal(size=effect.shape)
    observed = ObservedEffects(
        shown, np.full(shown.shape, NOISE), np.full(n, 50), np.full(n, trained_on), np.zeros(n)
    )
    return observed, additive, np.zeros_like(additive), non_additive


def test_what_measured_combinations_show_is_learned() -> None:
    found = fitted_additivity(*measured(40, share=0.8, slope=0.3))
    assert found.n_combinations == 40
    assert found.slope == pytest.approx(0.3, rel=0.2)
    assert found.model_share == pytest.approx(0.8, abs=0.1)
    exact = fitted_additivity(*measured(40))
    assert exact.slope < 0.02
    assert exact.of_gene.mean() < 0.002
    assert exact.model_share < 0.1


def test_the_model_does_not_count_where_it_saw_the_cells() -> None:
    assert fitted_additivity(*measured(40, share=0.8, trained_on=0.8)).model_share == 0


def test_few_combinations_say_little() -> None:
    none, one = (fitted_additivity(*measured(n)) for n in (0, 1))
    assert (none.slope, none.model_share, none.n_combinations) == (0.1, 0, 0)
    np.testing.assert_array_equal(none.of_gene, 0)
    assert 0.05 < one.slope < none.slope


def test_what_the_model_adds_counts_as_far_as_it_is_supported() -> None:
    parts, added = [mixture(0.1, 1, 0.1), mixture(0.1, 1, 0.1)], np.array([2.0])
    alone, half = (
        Additivity(np.array([0.01]), 0.25, share, 1).sum_of(parts, added) for share in (0, 0.5)
    )
    assert (half.mean[1:] - alone.mean[1:] == 1).all()
    variance = parts[0].plus(parts[1]).moments[1]
    np.testing.assert_allclose(alone.moments[1], variance + 0.01 + 0.25 * 1.8**2, rtol=1e-9)


@pytest.fixture
def sums() -> SumsOfParts:
    """Rows: A, B and C measured (C without effects), D only predicted; A+B, A+D, D+D' and C+C'."""
    effect = np.zeros((8, 3))
    effect[0], effect[1], effect[3] = [2, 0, 0], [1, -2, 0], [0, 0, 2]
    shown = effect.copy()
    shown[3:] = np.nan
    n_cells = np.array([50, 50, 50, 0, 0, 0, 0, 0])
    observed = ObservedEffects(
        shown, np.full(shown.shape, NOISE), n_cells, np.ones(8), np.full(8, np.nan)
    )
    ones = np.ones(8)
    reliability = Reliability(ones, ones, 0 * ones, np.full((8, 3), 0.02))
    log_weight = torch.log(torch.full((1 + 2 * len(GRID),), 1 / 11, dtype=torch.float64))
    weights = MixtureWeights(log_weight, 1.0, 1.0, -1.0)
    prior = EffectPrior(weights, 1.0, np.ones((8, 3)), reliability)
    parts = {4: [0, 1], 5: [0, 3], 6: [3, 3], 7: [2, 2]}
    predicted = PredictedEffects(effect, np.zeros((8, 3)))
    return SumsOfParts(prior, observed, predicted, {k: np.array(v) for k, v in parts.items()})


def test_a_gene_is_called_only_if_the_cells_of_a_part_support_it(sums: SumsOfParts) -> None:
    assert sums.rows == [4, 5, 6, 7]
    found = sums.posterior(sums.rows)
    np.testing.assert_allclose(found.mean[0, :2], [3, -2], atol=0.1)
    assert (found.lfsr[0, :2] < 0.01).all()
    assert found.lfsr[0, 2] > 0.3
    assert found.mean[1, 2] > 0.5  # D by the model
    assert found.lfsr[1, 0] < 0.05
    assert found.lfsr[1, 2] > 0.3  # but no cells of A or D support this gene
    np.testing.assert_array_equal(found.lfsr[2], 1)
    assert (found.lfsr[3] > 0.3).all()


def test_a_contrast_is_called_only_if_the_cells_of_either_side_support_it(
    sums: SumsOfParts,
) -> None:
    """A + B against A is B; A + D against control is D, which no cells support."""
    found = sums.contrast(4, 0)
    np.testing.assert_allclose(found.mean[0, :2], [1, -2], atol=0.2)
    assert found.lfsr[0, 1] < 0.01
    against_control, own = sums.contrast(5, None), sums.posterior([5])
    np.testing.assert_allclose(against_control.mean, own.mean, atol=1e-9)
    np.testing.assert_allclose(against_control.lfsr, own.lfsr, atol=0.01)
    assert against_control.lfsr[0, 2] > 0.3
