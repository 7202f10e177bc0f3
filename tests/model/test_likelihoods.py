"""The contract of the likelihoods: one body over every kind."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers.documented import DOCUMENTED_LIKELIHOODS
from helpers.statistics import errors
from helpers.tensors import normal, seeded
from samsvae.model.likelihood import (
    LIKELIHOODS,
    GaussianLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)
from samsvae.types import SCALE_SIZE, Batch, CountDraw, Dosage, Scale

N_HIDDEN, N_GENES = 4, 3
N_DRAWS = 40_000


def make(kind: type[Likelihood], *, n_genes: int = N_GENES, unobserved: bool = False) -> Likelihood:
    """Return a likelihood in float64 with parameters that are nowhere special."""
    likelihood = kind(N_HIDDEN, n_genes, unobserved=unobserved).double()
    with torch.no_grad():
        for seed, parameter in enumerate(likelihood.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=seed))
    return likelihood


def batch_of(counts: Tensor, library_size: Tensor | None = None) -> Batch:
    size = counts.sum(1) if library_size is None else library_size
    nothing = counts.new_zeros(len(counts), 0)
    return Batch(counts, size, nothing, Dosage(nothing[0].long(), nothing.long(), nothing), nothing)


def data(kind: type[Likelihood], n_cells: int) -> Tensor:
    values = normal(n_cells, N_GENES, seed=7)
    return torch.poisson(4 * values.exp(), generator=seeded(0)) if kind.counts else values


def draws(likelihood: Likelihood, hidden: Tensor, size: float, *, panel: bool) -> CountDraw:
    hidden, sizes = hidden.expand(N_DRAWS, -1), hidden.new_full((N_DRAWS,), size)
    with torch.no_grad():
        return likelihood.draw(hidden, sizes, seeded(1), panel=panel)


def mean_and_variance(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the mean over draws, its standard error, the variance, its standard error."""
    square, n = (values - values.mean(0)) ** 2, len(values) ** 0.5
    return values.mean(0), values.std(0) / n, square.mean(0), square.std(0) / n


every_likelihood = pytest.mark.parametrize("kind", [*LIKELIHOODS, *DOCUMENTED_LIKELIHOODS])
with_and_without_a_rest = pytest.mark.parametrize("unobserved", [False, True])


def test_names_are_unique() -> None:
    assert len({kind.name for kind in LIKELIHOODS}) == len(LIKELIHOODS)


@every_likelihood
def test_scales_are_known_and_tell_whether_there_is_a_library_size(kind: type[Likelihood]) -> None:
    assert 0 < len(kind.scales) == len(set(kind.scales))
    assert set(kind.scales) <= set(get_args(Scale))
    likelihood, hidden, x = make(kind), normal(5, N_HIDDEN), data(kind, 5)
    once, twice = (likelihood.log_prob(hidden, batch_of(x, n * x.sum(1))) for n in (1, 2))
    assert likelihood.has_library_size == ("mean" not in kind.scales)
    assert likelihood.has_library_size == (not torch.equal(once, twice))


@every_likelihood
@with_and_without_a_rest
def test_shapes(kind: type[Likelihood], unobserved: bool) -> None:
    likelihood, hidden = make(kind, unobserved=unobserved), normal(2, 5, N_HIDDEN)
    assert likelihood.log_prob(hidden, batch_of(data(kind, 5))).shape == (2, 5)
    assert likelihood.expectation(hidden).shape == (2, 5, N_GENES)
    sizes = torch.full((2, 5), 50.0, dtype=torch.float64)
    drawn = likelihood.draw(hidden, sizes, seeded(0), panel=unobserved)
    again = likelihood.redraw(drawn, hidden + 1, sizes, seeded(0), panel=unobserved)
    assert drawn.counts.shape == again.shape == (2, 5, N_GENES)
    if kind.counts:
        assert torch.all((drawn.counts >= 0) & (drawn.counts == drawn.counts.round()))


@every_likelihood
def test_particles_are_weighed_each_by_itself(kind: type[Likelihood]) -> None:
    likelihood, hidden, batch = make(kind), normal(3, 5, N_HIDDEN), batch_of(data(kind, 5))
    apart = torch.stack([likelihood.log_prob(own, batch) for own in hidden])
    torch.testing.assert_close(likelihood.log_prob(hidden, batch), apart)


@every_likelihood
@with_and_without_a_rest
@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("value", [0.0, 1e6])
def test_float32_is_finite_for_empty_cells_and_huge_values(
    kind: type[Likelihood], unobserved: bool, spread: float, value: float
) -> None:
    likelihood = make(kind, unobserved=unobserved).float()
    hidden = (spread * normal(6, 5, N_HIDDEN)).float().requires_grad_()
    log_prob = likelihood.log_prob(hidden, batch_of(torch.full((5, N_GENES), value)))
    assert torch.all(torch.isfinite(log_prob))
    for gradient in torch.autograd.grad(log_prob.sum(), [hidden, *likelihood.parameters()]):
        assert torch.all(torch.isfinite(gradient))


@every_likelihood
@with_and_without_a_rest
def test_gradients_are_those_of_the_density(kind: type[Likelihood], unobserved: bool) -> None:
    likelihood, batch = make(kind, unobserved=unobserved), batch_of(data(kind, 5))
    hidden = normal(2, 5, N_HIDDEN).requires_grad_()

    def log_prob(hidden: Tensor, *parameters: Tensor) -> Tensor:  # those are changed in place
        return likelihood.log_prob(hidden, batch)

    assert torch.autograd.gradcheck(log_prob, (hidden, *likelihood.parameters()))


def one_gene(kind: type[Likelihood], size: float) -> tuple[Likelihood, Tensor, Tensor, Tensor]:
    """Return a likelihood of one gene, a hidden layer, and the density on a grid of values."""
    likelihood, hidden = make(kind, n_genes=1, unobserved=True), normal(N_HIDDEN, seed=3)
    wide = torch.linspace(-80, 80, 80_001, dtype=torch.float64)
    grid = torch.arange(6000, dtype=torch.float64) if kind.counts else wide
    batch = batch_of(grid[:, None], torch.full_like(grid, size))
    with torch.no_grad():
        density = likelihood.log_prob(hidden.expand(len(grid), -1), batch).exp()
    return likelihood, hidden, grid, density * (grid[1] - grid[0])


@every_likelihood
def test_the_density_sums_to_one_and_is_what_data_are_drawn_from(kind: type[Likelihood]) -> None:
    likelihood, hidden, grid, density = one_gene(kind, 30.0)
    exact_to = 1e-9 if kind in LIKELIHOODS else 1e-6  # others may have a kink within the grid
    assert density.sum().item() == pytest.approx(1, abs=exact_to)
    drawn = draws(likelihood, hidden, 30.0, panel=False).counts[:, 0]
    mean, mean_se, variance, variance_se = mean_and_variance(drawn)
    exact = (density * grid).sum()
    assert abs(mean - exact) < errors(3) * mean_se
    assert abs(variance - (density * (grid - exact) ** 2).sum()) < errors(3) * variance_se
    below = density[grid <= exact].sum()
    se = (below * (1 - below) / N_DRAWS) ** 0.5
    assert abs((drawn <= exact).double().mean() - below) < errors(3) * se


def scipys(likelihood: Likelihood, hidden: Tensor, x: NDArray, size: NDArray) -> NDArray:
    """Return the log density by element, from the likelihood's own last layer."""
    own = {name: value.detach() for name, value in likelihood.named_parameters()}
    linear = (hidden @ own["linear.weight"].T + own["linear.bias"]).numpy()
    match likelihood:
        case NegativeBinomialLikelihood():
            theta = own["log_inverse_dispersion"].exp().numpy()
            share = np.exp(linear) / np.exp(linear).sum(-1, keepdims=True)
            mean = size[:, None] * share[..., :N_GENES] + 1e-4
            return scipy.stats.nbinom.logpmf(x, theta, theta / (theta + mean))
        case PoissonLikelihood():
            return scipy.stats.poisson.logpmf(x, np.log1p(np.exp(linear)))
        case GaussianLikelihood():
            raw = (hidden @ own["raw_variance.weight"].T + own["raw_variance.bias"]).numpy()
            return scipy.stats.norm.logpdf(x, linear, np.sqrt(np.exp(raw) + 1e-4))
    pytest.skip(f"no density of {likelihood.name} in scipy")


@every_likelihood
@with_and_without_a_rest
def test_the_density_equals_scipys(kind: type[Likelihood], unobserved: bool) -> None:
    likelihood, hidden = make(kind, unobserved=unobserved), normal(2, 5, N_HIDDEN)
    batch = batch_of(data(kind, 5))
    theirs = scipys(likelihood, hidden, batch.counts.numpy(), batch.library_size.numpy())
    ours = likelihood.log_prob(hidden, batch).detach().numpy()
    np.testing.assert_allclose(ours, theirs.sum(-1), rtol=1e-9)


@every_likelihood
@with_and_without_a_rest
def test_the_expectation_is_the_mean_of_draws(kind: type[Likelihood], unobserved: bool) -> None:
    likelihood, hidden = make(kind, unobserved=unobserved), normal(N_HIDDEN)
    mean, se, *_ = mean_and_variance(draws(likelihood, hidden, SCALE_SIZE, panel=True).counts)
    difference = (mean - likelihood.expectation(hidden).detach()).abs()
    assert torch.all(difference < errors(N_GENES) * se + 2e-4)  # a mean has 1e-4 added


@every_likelihood
@pytest.mark.parametrize("panel", [False, True])
def test_a_second_draw_has_the_distribution_of_a_first(kind: type[Likelihood], panel: bool) -> None:
    likelihood = make(kind, unobserved=True)
    first, second = normal(N_HIDDEN), normal(N_HIDDEN, seed=1)
    hidden, sizes = second.expand(N_DRAWS, -1), second.new_full((N_DRAWS,), 60.0)
    drawn = draws(likelihood, first, 40.0, panel=panel)
    again = likelihood.redraw(drawn, hidden, sizes, seeded(2), panel=panel).detach()
    found = mean_and_variance(again)
    expected = mean_and_variance(draws(likelihood, second, 60.0, panel=panel).counts)
    for moment in (0, 2):
        se = (found[moment + 1] ** 2 + expected[moment + 1] ** 2).sqrt()
        difference = (found[moment] - expected[moment]).abs()
        assert torch.all(difference < errors(2 * N_GENES) * se)


def test_negative_binomial_means_are_the_library_size_times_the_shares() -> None:
    likelihood, hidden = make(NegativeBinomialLikelihood, unobserved=True), normal(N_HIDDEN)
    assert isinstance(likelihood, NegativeBinomialLikelihood)
    size = torch.tensor(500.0, dtype=torch.float64)
    for panel in (False, True):
        mean = likelihood.mean(hidden, size, panel=panel).detach()
        assert (mean.sum().item() == pytest.approx(500 + 3e-4)) == panel
        found, se, *_ = mean_and_variance(draws(likelihood, hidden, 500.0, panel=panel).counts)
        assert torch.all((found - mean).abs() < errors(2 * N_GENES) * se)
    expectation = likelihood.expectation(hidden).detach()
    torch.testing.assert_close(expectation, (mean - 1e-4) / 500 * SCALE_SIZE)


def test_negative_binomial_counts_are_redrawn_with_shared_noise() -> None:
    likelihood, hidden = make(NegativeBinomialLikelihood), normal(200, N_HIDDEN)
    sizes = torch.linspace(1, 2000, 200, dtype=torch.float64)
    drawn = likelihood.draw(hidden, sizes, seeded(0), panel=True)
    same = likelihood.redraw(drawn, hidden, sizes, seeded(1), panel=True)
    assert torch.equal(same, drawn.counts)
    more, fewer = (
        likelihood.redraw(drawn, hidden, n * sizes, seeded(1), panel=True) for n in (1.5, 0.6)
    )
    for low, high in pairwise([fewer, drawn.counts, more]):
        assert torch.all(low <= high)
        assert not torch.equal(low, high)


@every_likelihood
def test_draws_are_a_function_of_the_seed(kind: type[Likelihood]) -> None:
    likelihood, hidden = make(kind), normal(N_HIDDEN)
    first, second = (draws(likelihood, hidden, 50.0, panel=True) for _ in range(2))
    assert torch.equal(first.counts, second.counts)


@every_likelihood
def test_permuting_genes_keeps_the_density(kind: type[Likelihood]) -> None:
    likelihood, hidden, x = make(kind), normal(2, 5, N_HIDDEN), data(kind, 5)
    before, genes = likelihood.log_prob(hidden, batch_of(x)), torch.tensor([2, 0, 1])
    expected = likelihood.expectation(hidden)[..., genes]
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.copy_(parameter[genes].clone())
    torch.testing.assert_close(likelihood.log_prob(hidden, batch_of(x[:, genes])), before)
    torch.testing.assert_close(likelihood.expectation(hidden), expected)


def test_a_poisson_density_holds_in_float32_for_any_count() -> None:
    rate = np.array([0.4, 3.0, 900.0, 1e5, 1e6, 1e7], np.float32).astype(float)
    raw = torch.from_numpy(rate + np.log(-np.expm1(-rate))).float()  # softplus(raw) = rate
    likelihood = PoissonLikelihood(1, 1)
    with torch.no_grad():
        likelihood.linear.weight.fill_(1.0)
        likelihood.linear.bias.zero_()
    for distance in (-3.0, 0.0, 2.0):
        x = np.round(np.maximum(rate + distance * np.sqrt(rate), 0))
        batch = batch_of(torch.from_numpy(x).float().unsqueeze(1))
        value = likelihood.log_prob(raw[None, :, None], batch)[0].detach().double().numpy()
        np.testing.assert_allclose(value, scipy.stats.poisson.logpmf(x, rate), rtol=1e-5, atol=1e-3)
