"""The negative binomial against scipy, and the draws that effects are made of."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from helpers.statistics import errors
from samsvae.ops import native
from samsvae.ops import negative_binomial as nb

NEEDS_COMPILER = pytest.mark.skipif(native.library() is None, reason="no C compiler")


@pytest.mark.parametrize("theta", [0.05, 1.0, 15.9, 16.1, 300.0])
@pytest.mark.parametrize("mean", [1e-4, 0.7, 40.0, 5000.0])
def test_equals_scipy(theta: float, mean: float) -> None:
    x = torch.tensor([0, 1, 2, 17, 400, 100_000], dtype=torch.float64)[:, None]
    log_theta = torch.tensor([np.log(theta)], dtype=torch.float64)
    ours = nb.log_prob(x, torch.full_like(x, mean), log_theta)
    theirs = scipy.stats.nbinom.logpmf(x[:, 0].numpy(), theta, theta / (theta + mean))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("theta", "mean"), [(0.3, 2.0), (5.0, 30.0), (80.0, 12.0)])
def test_sums_to_one(theta: float, mean: float) -> None:
    x = torch.arange(3000, dtype=torch.float64)[:, None]
    log_theta = torch.tensor([np.log(theta)], dtype=torch.float64)
    total = nb.log_prob(x, torch.full_like(x, mean), log_theta).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)


COUNTS = (0.0, 1.0, 7.0, 16.0, 17.0, 300.0, 1e4, 1e5, 1e6, 1e7)
THETAS = (0.01, 0.3, 1.0, 15.9, 100.0, 1e4, 1e6)
FORMS = ["plain", pytest.param("fast", marks=NEEDS_COMPILER)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("distance", [-3.0, -0.5, 0.0, 1.0, 3.0])
def test_float32_holds_for_any_count_and_theta(form: str, distance: float) -> None:
    """Value and gradients of one gene, for counts some standard deviations from their mean.

    They are as good as rounding of the mean allows, whose relative error is multiplied by `sd`.
    """
    x, theta = (np.array(v).ravel() for v in np.meshgrid(COUNTS, THETAS))
    log_theta = np.log(theta).astype(np.float32)
    theta = np.exp(log_theta.astype(float))
    mean = np.maximum(x - distance * np.sqrt(x + x**2 / theta), 0.02 * x + 0.1)
    mean = mean.astype(np.float32).astype(float)
    value, to_log_mean, to_log_theta = evaluated(form, x, mean, log_theta)
    sd = np.sqrt(theta * mean / (theta + mean))  # of the gradient to log mean
    exact = scipy.stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    assert (np.abs(value - exact) < 1e-5 + 1e-6 * (np.abs(exact) + sd)).all()
    score = theta * (x - mean) / (theta + mean)
    assert (np.abs(to_log_mean - score) < 2e-6 * (1 + sd**2 + np.abs(score))).all()
    digamma = scipy.special.digamma
    slope = digamma(x + theta) - digamma(theta) - np.log1p(mean / theta)
    slope = theta * (slope + (mean - x) / (mean + theta))
    rounding = (
        1e-5 + 2e-6 * np.abs(slope) + 1e-6 * (sd + np.abs(score))
    )  # terms of that size cancel
    assert (np.abs(to_log_theta - slope) < rounding).all()


def evaluated(
    form: str, x: np.ndarray, mean: np.ndarray, log_theta: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the density of each count, and its gradients to the logs of mean and theta."""
    results = []
    for count, mu, log in zip(x, mean, log_theta, strict=True):
        counts, theta = torch.tensor([[count]]).float(), torch.tensor([float(log)])
        theta.requires_grad_()
        if form == "plain":
            mu_ = torch.tensor([[mu]]).float().requires_grad_()
            value = nb.log_prob(counts, mu_, theta)
            leaf, factor = mu_, mu
        else:  # a share of a half, whose logit moves the mean half as fast
            leaf, factor = torch.zeros(2, requires_grad=True), 2 * mu / (mu - 1e-4)
            given = counts, torch.zeros(1, 1, 1), torch.zeros(2, 1), leaf
            value = nb.log_prob_of_hidden(*given, torch.tensor([2 * (mu - 1e-4)]).float(), theta)
        gradients = torch.autograd.grad(value.sum(), (leaf, theta))
        results.append(
            [value.item(), factor * gradients[0].flatten()[0].item(), gradients[1].item()]
        )
    return tuple(np.array(results).T)


@pytest.mark.parametrize("theta", [1e8, 1e12])
def test_a_large_theta_is_poisson(theta: float) -> None:
    x = torch.tensor([[0.0], [3.0], [1000.0]])
    ours = nb.log_prob(x, torch.full_like(x, 950.0), torch.tensor([np.log(theta)]).float())
    theirs = scipy.stats.poisson.logpmf(x[:, 0].numpy(), 950)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-4)


def test_gradient_of_the_density() -> None:
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(rng.poisson(3.0, (2, 5)).astype(float))
    mean = torch.from_numpy(rng.gamma(2.0, 1.0, (3, 2, 5))).requires_grad_()
    log_theta = torch.tensor([-2.0, 0.0, 2.7, 2.8, 6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda m, t: nb.log_prob(counts, m, t), (mean, log_theta), eps=1e-6, atol=1e-6
    )


def test_coupled_counts_are_poisson_and_equal_where_rates_are() -> None:
    # Failure rate 1e-7 per bound: |z| < 5.3.
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    rate = torch.tensor([3.0, 3.0, 3.0, 0.0]).expand(n, 4)
    new = torch.tensor([1.2, 3.0, 7.5, 0.0]).expand(n, 4)
    counts = torch.poisson(rate, generator=generator)
    coupled = nb.poisson_coupled(counts, rate, new, generator)
    assert torch.equal(coupled[:, 1], counts[:, 1])
    assert coupled[:, 3].max() == 0
    for column, mean in ((0, 1.2), (2, 7.5)):
        values = coupled[:, column].double()
        assert abs(values.mean() - mean) < errors() * (mean / n) ** 0.5
        variance_se = ((mean + 2 * mean**2) / n) ** 0.5
        assert abs(values.var() - mean) < errors() * variance_se
    assert torch.corrcoef(torch.stack([counts[:, 2], coupled[:, 2]]))[0, 1] > 0.5


def test_gamma_noise_has_mean_one_and_variance_one_over_theta() -> None:
    generator = torch.Generator().manual_seed(1)
    log_theta = torch.tensor([0.0, 2.0])
    noise = nb.gamma_noise(log_theta, (100_000,), generator).double()
    theta = log_theta.exp().double()
    assert torch.all((noise.mean(0) - 1).abs() < 5.3 / (theta * len(noise)).sqrt())
    torch.testing.assert_close(noise.var(0), 1 / theta, rtol=0.05, atol=0)
