"""The Gaussian prior with kernels: against dense matrices, and what evidence makes of features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from samsvae.inference.kernel_prior import Estimates, KernelPosterior, KernelPrior, fitted_prior


def problem(n: int = 12, seed: int = 0) -> tuple[Estimates, list[np.ndarray], KernelPrior]:
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(n, 3)), rng.normal(size=(n, 2))]
    factors = [factor / np.linalg.norm(factor, axis=1, keepdims=True) for factor in factors]
    estimates = Estimates(rng.normal(size=(n, 2)), rng.uniform(0.1, 1, size=(n, 2)))
    return estimates, factors, KernelPrior(np.array([0.4, 0.3]), np.array([0.7, 2.0]), 0.0)


def dense(factors: list[np.ndarray], prior: KernelPrior, column: int) -> np.ndarray:
    n = len(factors[0])
    shared = sum(a * f @ f.T for a, f in zip(prior.weights, factors, strict=True))
    return prior.square[column] * (shared + (1 - prior.rho) * np.eye(n))


@pytest.mark.parametrize("column", [0, 1])
def test_rows_left_out_and_new_rows_are_those_of_dense_regression(column: int) -> None:
    estimates, factors, prior = problem()
    left_out = KernelPosterior(prior, estimates, factors).left_out()
    covariance = dense(factors, prior, column)
    y, v = estimates.value[:, column], estimates.variance[:, column]
    for row in range(len(y)):
        others = np.arange(len(y)) != row
        inverse = np.linalg.inv(covariance[np.ix_(others, others)] + np.diag(v[others]))
        mean = inverse.sum(0) @ y[others] / inverse.sum()
        k = covariance[row, others]
        expected = mean + k @ inverse @ (y[others] - mean)
        rest = 1 - k @ inverse @ np.ones(others.sum())
        variance = covariance[row, row] - k @ inverse @ k + rest**2 / inverse.sum()
        some = np.flatnonzero(others)
        new = KernelPosterior(prior, estimates.of(some), [f[some] for f in factors]).new(
            [f[[row]] for f in factors]
        )
        for found in (left_out.mean[row], new.mean[0]):
            assert found[column] == pytest.approx(expected)
        for found in (left_out.variance[row], new.variance[0]):
            assert found[column] == pytest.approx(variance)


def test_own_rows_are_those_of_dense_regression() -> None:
    estimates, factors, prior = problem()
    own = KernelPosterior(prior, estimates, factors).own()
    covariance = dense(factors, prior, 0) + 1e6 * np.ones((12, 12))  # a mean with a flat prior
    noise = np.diag(estimates.variance[:, 0])
    gain = covariance @ np.linalg.inv(covariance + noise)
    np.testing.assert_allclose(own.mean[:, 0], gain @ estimates.value[:, 0], rtol=1e-4)
    variance = np.diag(gain @ noise)
    np.testing.assert_allclose(own.variance[:, 0], variance, rtol=1e-4)


def test_evidence_is_the_ratio_of_densities() -> None:
    estimates, factors, _ = problem()
    column = KernelPosterior(
        KernelPrior(np.array([0.4, 0.3]), np.array([0.7, 2.0]), 0.0), estimates, factors
    )._columns[0]
    flat = KernelPosterior(
        KernelPrior(np.zeros(2), np.array([0.7, 2.0]), 0.0), estimates, factors
    )._columns[0]

    def density(weights: np.ndarray) -> float:
        prior = KernelPrior(weights, np.array([0.7, 2.0]), 0.0)
        covariance = dense(factors, prior, 0) + np.diag(estimates.variance[:, 0]) + 1e6
        return float(multivariate_normal(cov=covariance).logpdf(estimates.value[:, 0]))

    expected = density(np.array([0.4, 0.3])) - density(np.zeros(2))
    assert column.log_evidence - flat.log_evidence == pytest.approx(expected, abs=1e-3)


def test_useful_features_are_used_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    group = np.eye(10)[np.arange(40) % 10]
    value = group @ rng.normal(size=(10, 3)) + 0.1 * rng.normal(size=(40, 3))
    estimates = Estimates(value, np.full((40, 3), 0.01))
    others = rng.permutation(group)
    assert fitted_prior(estimates, [group]).rho > 0.8
    assert fitted_prior(estimates, [others]).rho < 0.1
    both = fitted_prior(estimates, [others, group])
    assert both.weights[1] > 0.8 > 0.1 > both.weights[0]


def test_without_features_rows_are_predicted_by_the_mean() -> None:
    estimates, factors, prior = problem()
    without = KernelPosterior(prior._replace(weights=np.zeros(2)), estimates, factors)
    new = without.new([factor[:2] for factor in factors])
    assert new.mean[0] == pytest.approx(new.mean[1])
    weight = 1 / (0.7 + estimates.variance[:, 0])
    assert new.mean[0, 0] == pytest.approx(np.average(estimates.value[:, 0], weights=weight))
