"""The negative binomial against scipy, and the draws that effects are made of."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from helpers.statistics import errors
from samsvae.ops import negative_binomial as nb


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


def test_float32_keeps_its_digits_where_lgamma_would_not() -> None:
    log_theta = torch.tensor([np.log(v) for v in (0.1, 10.0, 1e4, 1e8, 1e12)])
    x = np.array([0.0, 1.0, 12.0, 300.0])[:, None].repeat(5, 1)
    ours = nb.log_rising_factorial(torch.from_numpy(x).float(), log_theta)
    exact = scipy.special.loggamma
    theta = np.exp(log_theta.double().numpy())
    theirs = np.where(
        theta > 1e7,
        x * np.log(theta) + x * (x - 1) / (2 * theta),
        exact(x + theta) - exact(theta),
    )
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=3e-6, atol=3e-5)


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
