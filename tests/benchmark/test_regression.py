"""Least squares and ridge regression against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from samsvae.benchmark.regression import WeightedEffects, fit_ridge, least_squares

SETTINGS = {"penalties": (1, 10, 100), "n_components": (1, 2, 40), "default_penalty": 7.0}


def conditions(seed: int = 0, *, n_conditions: int = 12, n_genes: int = 9) -> WeightedEffects:
    """Return effects that are sums of two programs, and noise."""
    rng = np.random.default_rng(seed)
    dose = rng.integers(0, 3, (n_conditions, 5)) * (rng.random((n_conditions, 5)) < 0.5)
    effects = dose @ rng.normal(size=(5, 2)) @ rng.normal(size=(2, n_genes))
    n_cells = rng.integers(5, 60, n_conditions)
    effects = effects + 0.1 * rng.normal(size=effects.shape)
    weight = np.repeat(n_cells[:, None], n_genes, 1).astype(float)
    return WeightedEffects(sp.csr_matrix(dose.astype(float)), n_cells, effects, weight)


def test_the_smallest_of_the_solutions_that_fit_alike() -> None:
    design, n_cells, effects, _ = conditions(n_conditions=4)
    root = np.sqrt(n_cells)[:, None]
    expected = np.linalg.lstsq(root * design.toarray(), root * effects, rcond=None)[0]
    assert np.linalg.matrix_rank(design.toarray()) < 5
    found = least_squares(design, n_cells, effects)
    np.testing.assert_allclose(design @ found, design @ expected, atol=1e-4)
    binary = sp.csr_matrix((design > 0).astype(float))
    expected = np.linalg.lstsq(root * binary.toarray(), root * effects, rcond=None)[0]
    np.testing.assert_allclose(least_squares(binary, n_cells, effects), expected, atol=1e-4)


def test_a_penalty_is_in_cells_at_the_usual_dose() -> None:
    design = sp.csr_matrix(np.diag([1.0, 8.0]))
    found = least_squares(design, np.array([30, 30]), np.array([[1.0], [1.0]]), penalty=15)
    np.testing.assert_allclose(found.ravel(), [2 / 3, 2 / 3 / 8])


@pytest.mark.parametrize("n_genes", [9, 40])
def test_all_components_are_plain_ridge_regression(n_genes: int) -> None:
    train = conditions(n_genes=n_genes)
    fit = fit_ridge(train, None, **SETTINGS)  # type: ignore[arg-type]
    plain = train.design @ least_squares(train.design, train.n_cells, train.effects, 7.0)
    np.testing.assert_allclose(fit.predict(train.design), plain, atol=1e-6)


def test_the_setting_with_the_smallest_error_is_chosen() -> None:
    train, valid = conditions(), conditions(1)
    valid = valid._replace(effects=valid.design @ np.ones((5, 9)))
    fit = fit_ridge(train, valid, **SETTINGS)  # type: ignore[arg-type]
    root = np.sqrt(train.n_cells)[:, None] * train.effects
    axes = np.linalg.svd(root, full_matrices=False)[2]
    errors = {}
    for penalty in (1, 10, 100):
        for k in (1, 2, 9):
            projected = train.effects @ axes[:k].T @ axes[:k]
            b = least_squares(train.design, train.n_cells, projected, penalty)
            error = valid.weight * (valid.design @ b - valid.effects) ** 2
            errors[penalty, k] = error.sum()
    assert (fit.penalty, len(fit.components)) == min(errors, key=lambda key: errors[key])


def test_genes_count_by_their_precision() -> None:
    """The noise of imprecise genes is not what the first component is spent on."""
    train = conditions()
    noise = 50 * np.random.default_rng(3).normal(size=(12, 1))
    weight = train.weight.copy()
    weight[:, 0] *= 1e-9
    noisy = train._replace(effects=train.effects + noise * (np.arange(9) == 0), weight=weight)
    settings = {**SETTINGS, "n_components": (2,)}
    fit = fit_ridge(noisy, None, **settings)  # type: ignore[arg-type]
    clean = fit_ridge(train, None, **settings)  # type: ignore[arg-type]
    ours, theirs = (one.predict(train.design)[:, 1:] for one in (fit, clean))
    np.testing.assert_allclose(ours, theirs, atol=0.1)


def test_effects_of_nothing() -> None:
    train = conditions()
    nothing = train._replace(effects=0 * train.effects)
    for valid in (None, nothing):
        fit = fit_ridge(nothing, valid, **SETTINGS)  # type: ignore[arg-type]
        assert not fit.predict(train.design).any()
    unknown = train._replace(weight=0 * train.weight)  # single cells: nothing is known of errors
    assert fit_ridge(unknown, unknown, **SETTINGS).penalty == 7.0  # type: ignore[arg-type]
