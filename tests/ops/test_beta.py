"""The Beta distribution against scipy: density, draws, and the gradient of draws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from helpers.statistics import FAILURE_RATE, errors
from samsvae.ops.draws import BetaNoise, beta_log_prob, beta_logit, beta_noise

SHAPES = [(0.05, 0.05), (0.05, 3.0), (0.7, 0.4), (1.0, 1.0), (1.0, 50.0), (8.0, 2.0), (90.0, 60.0)]
SMALLEST = (float(np.exp(-6.0)), float(np.exp(-6.0)))
N_DRAWS = 20_000


def noise(a: Tensor, b: Tensor) -> BetaNoise:
    return beta_noise(a.detach(), b.detach(), torch.Generator().manual_seed(0))


def draws(a: float, b: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the logits of draws."""
    every = torch.ones(N_DRAWS, dtype=dtype)
    return beta_logit(a * every, b * every, noise(a * every, b * every))


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_the_density_equals_scipys(a: float, b: float) -> None:
    p = np.array([1e-12, 1e-3, 0.2, 0.5, 0.97, 1 - 1e-9])
    log_p, log_not_p = torch.from_numpy(np.log(p)), torch.from_numpy(np.log1p(-p))
    ours = beta_log_prob(log_p, log_not_p, leaf(a), leaf(b)).detach()
    np.testing.assert_allclose(ours, scipy.stats.beta.logpdf(p, a, b), rtol=1e-9, atol=1e-9)


def test_the_density_keeps_its_digits_beside_zero_and_one() -> None:
    log_p = torch.tensor([-80.0, -1e-30])
    log_not_p = log_p.flip(0)
    ours = beta_log_prob(log_p, log_not_p, torch.tensor(2.0), torch.tensor(3.0))
    torch.testing.assert_close(ours, torch.tensor([-80.0, -160.0]) + float(np.log(12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("a", "b"), [SMALLEST, *SHAPES])
def test_draws_follow_the_distribution(a: float, b: float, dtype: torch.dtype) -> None:
    logit = draws(a, b, dtype)
    assert logit.dtype == dtype
    assert torch.isfinite(logit).all()
    p = logit.double().sigmoid().numpy()
    law, end = scipy.stats.beta(a, b), 1e-12
    rank = law.cdf(p)
    # Beside 0 and 1 scipy has no digits left: there it only counts how many draws there are.
    low, high, rng = law.cdf(end), law.cdf(1 - end), np.random.default_rng(0)
    rank = np.where(p < end, rng.uniform(0, low, N_DRAWS), rank)
    rank = np.where(p > 1 - end, rng.uniform(high, 1, N_DRAWS), rank)
    assert scipy.stats.kstest(rank, "uniform").pvalue > FAILURE_RATE / 200


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_of_draws_near_zero_keep_their_mean(dtype: torch.dtype) -> None:
    """p itself underflows: E log p = digamma(a) - digamma(a + b) is -403 here."""
    a, b = SMALLEST[0], 1.0
    log_p = torch.nn.functional.logsigmoid(draws(a, b, dtype)).double()
    exact = scipy.special.digamma(a) - scipy.special.digamma(a + b)
    assert abs(log_p.mean() - exact) < errors() * log_p.std() / N_DRAWS**0.5


def test_draws_are_a_function_of_the_seed() -> None:
    assert torch.equal(draws(0.7, 0.4), draws(0.7, 0.4))


@pytest.mark.parametrize("quantile", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("a", [0.02, 0.3, 1.0, 8.0, 90.0])
def test_the_gradient_of_a_gamma_draw_keeps_its_quantile(a: float, quantile: float) -> None:
    """By a five-point difference of log X = log G(a + 1) - exponential / a, G at a quantile."""

    def log_x(at: float) -> float:
        return float(np.log(scipy.special.gammaincinv(at + 1, quantile)) - 0.7 / at)

    step = 1e-3 * a
    at = [log_x(a + k * step) for k in (-2, -1, 1, 2)]
    slope = float(np.dot(at, [1, -8, 8, -1]) / (12 * step))
    gamma = leaf(scipy.special.gammaincinv(a + 1, quantile)).detach()
    one, other = leaf(a), leaf(2.0)
    drawn = BetaNoise(gamma, torch.ones_like(gamma), torch.full_like(gamma, 0.7), 0 * gamma)
    (to_a,) = torch.autograd.grad(beta_logit(one, other, drawn), one)
    assert to_a.item() == pytest.approx(slope, rel=1e-3)
    swapped = BetaNoise(drawn.gamma_b, drawn.gamma_a, drawn.exponential_b, drawn.exponential_a)
    (to_b,) = torch.autograd.grad(beta_logit(other, one, swapped), one)
    assert to_b.item() == -to_a.item()


def test_the_gradient_of_shared_parameters_is_the_sum_over_particles() -> None:
    a, b = leaf(0.5, 1.0, 3.0, 9.0).view(2, 2), leaf(2.0, 0.6, 1.0, 4.0).view(2, 2)
    every = torch.ones(5, 2, 2, dtype=torch.float64)
    drawn = noise(a * every, b * every)
    weight = torch.rand(5, 2, 2, dtype=torch.float64)
    shared = torch.autograd.grad((beta_logit(a, b, drawn) * weight).sum(), (a, b))
    for i, j in np.ndindex(2, 2):
        alone = [x[i, j].detach().expand(5).clone().requires_grad_() for x in (a, b)]
        own = BetaNoise(*(values[:, i, j] for values in drawn))
        each = torch.autograd.grad(beta_logit(alone[0], alone[1], own), alone, weight[:, i, j])
        for together, apart in zip(shared, each, strict=True):
            torch.testing.assert_close(together[i, j], apart.sum())


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), *SHAPES[2:]])
def test_the_pathwise_gradient_agrees_with_that_of_the_expectation(a: float, b: float) -> None:
    every = torch.ones(N_DRAWS, dtype=torch.float64)
    both = (a * every).requires_grad_(), (b * every).requires_grad_()
    logit, total = beta_logit(*both, noise(*both)), a + b
    trigamma = scipy.special.polygamma(1, [a, total])
    # E p = a / (a + b), and E log p = digamma(a) - digamma(a + b).
    expected = [(b / total**2, -a / total**2), (trigamma[0] - trigamma[1], -trigamma[1])]
    values = logit.sigmoid(), torch.nn.functional.logsigmoid(logit)
    for of_value, slopes in zip(values, expected, strict=True):
        drawn = torch.autograd.grad(of_value.sum(), both, retain_graph=True)
        for gradient, exact in zip(drawn, slopes, strict=True):
            se = gradient.std() / N_DRAWS**0.5
            assert abs(gradient.mean() - exact) < errors(4) * se
