"""Effects given a model and cells: exact small cases, and what is learned from planted ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from samsvae.analysis.mixture import (
    GRID,
    N_ZERO,
    EffectPrior,
    Mixture,
    MixtureWeights,
    ObservedEffects,
    PredictedEffects,
    Reliability,
    ZeroCentred,
    below,
    quantile,
)
from samsvae.analysis.shrinkage import about_zero, fitted_prior, slopes
from samsvae.inference.discrepancy import rank_one

N_COMPONENTS = 1 + 2 * len(GRID)


def alone(component: int, *, slope: float = 1.0, noise_inflation: float = 1.0) -> EffectPrior:
    """Return a prior of one component, for one condition of three genes."""
    weight = np.full(N_COMPONENTS, -60.0)
    weight[component] = 0
    reliability = Reliability(np.ones(1), np.ones(1), np.zeros(1), np.full((1, 3), 0.5))
    weights = MixtureWeights(torch.from_numpy(weight), slope, noise_inflation, 0.0)
    return EffectPrior(weights, 1.0, np.full((1, 3), 2.0), reliability)


def shown(
    difference: list[float], variance: float, n: int = 10, trained_on: float = 1.0
) -> ObservedEffects:
    d = np.array([difference])
    return ObservedEffects(
        d, np.full(d.shape, variance), np.array([n]), np.array([trained_on]), np.array([np.nan])
    )


def predicted(effect: list[float], variance: float = 0.0) -> PredictedEffects:
    m = np.array([effect])
    return PredictedEffects(m, np.full(m.shape, variance))


D, M = [1.0, -0.5, 0.2], [2.0, 0.0, -1.0]


def test_about_zero_it_is_the_normal_posterior() -> None:
    """Prior N(0, 2), seen with variance 1: mean 2/3 d, variance 2/3."""
    found = alone(3).posterior(shown(D, 1.0), predicted(M))
    mean, sd = 2 / 3 * np.array(D), np.sqrt(2 / 3)
    np.testing.assert_allclose(found.mean[0], mean, atol=1e-9)
    np.testing.assert_allclose(found.sd, sd, atol=1e-9)
    np.testing.assert_allclose(found.lfsr[0], norm.cdf(-np.abs(mean) / sd), atol=1e-9)
    np.testing.assert_allclose(found.lower[0], mean - norm.ppf(0.95) * sd, atol=1e-6)
    np.testing.assert_allclose(found.upper[0], mean + norm.ppf(0.95) * sd, atol=1e-6)
    np.testing.assert_allclose(found.upper_50[0], mean + norm.ppf(0.75) * sd, atol=1e-6)


def test_about_the_model_it_is_centred_there() -> None:
    """Prior N(1.5 m, 0.5 + 1.5^2 0.2) of effects, seen with variance 1.25 x 1."""
    found = alone(8, slope=1.5, noise_inflation=1.25).posterior(shown(D, 1.0), predicted(M, 0.2))
    prior, noise, center = 0.5 + 1.5**2 * 0.2, 1.25, 1.5 * np.array(M)
    gain = prior / (prior + noise)
    np.testing.assert_allclose(found.mean[0], center + gain * (np.array(D) - center), atol=1e-9)
    np.testing.assert_allclose(found.sd, np.sqrt(gain * noise), atol=1e-9)


def test_without_cells_it_is_the_prior() -> None:
    none = np.full((1, 3), np.nan)
    nothing = ObservedEffects(none, none, np.array([0]), np.array([0.0]), np.array([np.nan]))
    weight = np.log(np.full(N_COMPONENTS, 1 / N_COMPONENTS))
    prior = alone(8)
    weights = MixtureWeights(torch.from_numpy(weight), 1.0, 1.0, -1.0)
    mixed = EffectPrior(weights, 1.0, prior.spread, prior.reliability)
    found = mixed.posterior(nothing, predicted(M))
    m, others = np.array(M), (N_COMPONENTS - 1) // 2
    null = 1 / (m**2 + GRID[0])  # a = -1: the odds of no effect fall with its size
    share = others / (null + 2 * others)  # of the components about the model
    about_model = share * (m**2 + 0.5 * np.mean(GRID))
    about_zero = share * 2.0 * np.mean(GRID) + null / (null + 2 * others) * 0.5 * GRID[0]
    np.testing.assert_allclose(found.mean[0], share * m, atol=1e-9)
    expected = np.sqrt(about_model + about_zero - (share * m) ** 2)
    np.testing.assert_allclose(found.sd[0], expected, rtol=1e-9)


def test_nothing_is_sure_where_all_is_negligible() -> None:
    """N(0, 0.5 / 16), seen with variance 1; of no sign that counts."""
    found = alone(0).posterior(shown(D, 1.0), predicted(M))
    gain = 1 / 33
    np.testing.assert_allclose(found.mean[0], gain * np.array(D), atol=1e-9)
    np.testing.assert_allclose(found.sd, gain**0.5, atol=1e-9)
    np.testing.assert_allclose(found.upper - found.lower, 2 * norm.ppf(0.95) * gain**0.5, atol=1e-6)
    np.testing.assert_allclose(found.lfsr, 1, atol=1e-4)


def test_an_effect_that_is_0_has_an_interval_that_is_0() -> None:
    prior = alone(0)
    reliability = prior.reliability._replace(spread=np.zeros((1, 3)))
    found = replace(prior, reliability=reliability).posterior(shown(D, 1.0), predicted(M))
    for values in (found.lower, found.upper):
        np.testing.assert_array_equal(values, 0)
    np.testing.assert_allclose(found.mean, 0, atol=1e-9)


def test_a_quantile_of_what_is_nearly_a_point() -> None:
    """Its variance is not lost beside the square of its mean."""
    mean = np.random.default_rng(0).normal(0, 1, 200) * np.ones((N_COMPONENTS, 1))
    weight = np.full(mean.shape, 1 / N_COMPONENTS)
    found = quantile(weight, mean, np.full(mean.shape, 1e-9), 0.95)
    np.testing.assert_allclose(found, mean[0] + norm.ppf(0.95) * 1e-9, atol=1e-10, rtol=0)


def test_the_mixture_by_numerical_integration() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=N_COMPONENTS)
    weight = logits - np.log(np.exp(logits).sum())
    reliability = Reliability(
        np.array([0.7]), np.array([0.8]), np.array([0.1]), np.full((1, 1), 0.5)
    )
    weights = MixtureWeights(torch.from_numpy(weight), 1.1, 1.3, -0.8)
    prior = EffectPrior(weights, 0.4, np.full((1, 1), 0.3), reliability)
    found = prior.posterior(shown([0.6], 0.2, trained_on=0.6), predicted([0.9], 0.05))
    theta = np.linspace(-6, 6, 240_001)
    w = np.exp(weight)
    w[0] *= (0.9**2 / 0.4 + GRID[0]) ** -0.8
    w /= w.sum()
    of_model = w[6:].sum() * 0.3
    zero = w[:6] * (1 + of_model / w[:6].sum())
    center, v = 1.1 * 0.8 * 0.9, 1.1**2 * (0.8**2 * 0.05 + 0.1 * 0.9**2)
    like0 = norm.pdf(0.6, theta, np.sqrt(0.2))
    like1 = norm.pdf(0.6, theta, np.sqrt(0.2 / (0.6 / 1.3 + 0.4)))
    density = sum(
        zero[1 + k] * norm.pdf(theta, 0, np.sqrt(g * 0.3)) * like0
        + 0.7 * w[6 + k] * norm.pdf(theta, center, np.sqrt(g * 0.5 + v)) * like1
        for k, g in enumerate(GRID)
    )
    step = theta[1] - theta[0]
    negligible = zero[0] * norm.pdf(theta, 0, np.sqrt(GRID[0] * 0.5)) * like0
    above = density[theta > 0].sum()
    density = density + negligible
    total = density.sum() * step
    np.testing.assert_allclose(found.mean, (density * theta).sum() * step / total, rtol=1e-4)
    np.testing.assert_allclose(found.lfsr, 1 - above * step / total, atol=1e-4)
    held = np.cumsum(density) * step / total
    np.testing.assert_allclose(found.upper, theta[np.searchsorted(held, 0.95)], atol=1e-3)
    np.testing.assert_allclose(found.lower, theta[np.searchsorted(held, 0.05)], atol=1e-3)


def test_quantiles_of_any_mixture() -> None:
    """Narrow, wide and far components: as many lie below as are asked for."""
    rng = np.random.default_rng(0)
    weight = rng.dirichlet(np.full(6, 0.3), 4000).T
    mean, sd = rng.normal(0, 1, weight.shape), 10 ** rng.uniform(-4, 1, weight.shape)
    for level in (0.05, 0.25, 0.75, 0.95):
        found = quantile(weight, mean, sd, level)
        np.testing.assert_allclose(below(weight, mean, sd, found), level, atol=1e-8)


def test_a_condition_without_numbers_gets_the_mean_spread() -> None:
    rng = np.random.default_rng(1)
    residual = rng.normal(0, 1, (3, 200))
    residual[1] = np.nan
    found = rank_one(residual, np.full((3, 200), 0.1)).variance
    assert found[1].mean() == pytest.approx(found[[0, 2]].mean(), rel=0.05)


def test_one_condition_acts_among_many_whose_errors_are_taken_to_be_too_large() -> None:
    """Their squares are smaller than their variances on average: the spread is not 0 for that."""
    rng = np.random.default_rng(2)
    residual = rng.normal(0, 1, (100, 200))
    residual[7] = rng.normal(0, np.sqrt(1 + 4), 200)
    found = rank_one(residual, np.full((100, 200), 1.2), n_steps=50).variance
    assert found[7].mean() > 2
    assert np.delete(found, 7, 0).max() < 0.5


def test_slopes_of_conditions_in_which_the_model_is_wrong() -> None:
    rng = np.random.default_rng(0)
    truth = np.r_[np.zeros(10), rng.normal(0.9, 0.1, 20)]
    prob, slope, variance = slopes(truth + rng.normal(0, 0.1, 30), np.full(30, 0.01))
    assert (prob[:10] < 0.01).all()
    assert (prob[10:] > 0.99).all()
    np.testing.assert_allclose(slope[10:], truth[10:], atol=0.35)
    assert (variance[10:] < 0.01).all()


def planted(
    seed: int, *, slope: float
) -> tuple[ObservedEffects, ObservedEffects, ObservedEffects, PredictedEffects, np.ndarray]:
    """Return what two sets of cells show of planted effects, both together, and a model's word."""
    rng = np.random.default_rng(seed)
    shape = (24, 300)
    theta = rng.normal(0, 0.5, shape) * (rng.random(shape) < 0.3)
    theta[:8] = 0
    model = (theta + rng.normal(0, 0.1, shape)) / slope if slope else rng.normal(0, 0.5, shape)
    sets = []
    for variance in (0.05, 0.2):
        d = theta + rng.normal(0, variance**0.5, shape)
        sets.append(
            ObservedEffects(
                d, np.full(shape, variance), np.full(24, 50), np.ones(24), np.full(24, np.nan)
            )
        )
    joint = (sets[0].difference * 4 + sets[1].difference) / 5
    both = ObservedEffects(
        joint, np.full(shape, 0.04), np.full(24, 62), np.full(24, 0.8), np.full(24, np.nan)
    )
    return *sets, both, PredictedEffects(model, np.zeros(shape)), theta


@pytest.mark.parametrize("slope", [1.0, 2.0])
def test_a_good_model_is_followed(slope: float) -> None:
    train, valid, both, model, theta = planted(0, slope=slope)
    prior = fitted_prior(train, valid, model)
    assert prior.model_share > 0.5
    found = prior.posterior(both, model)
    error = np.sqrt(((found.mean - theta) ** 2).mean())
    assert error < 0.75 * np.sqrt(((both.difference - theta) ** 2).mean())
    assert error < 1.02 * np.sqrt(((slope * model.effect - theta) ** 2).mean())


def test_a_bad_model_loses_its_weight() -> None:
    train, valid, both, model, theta = planted(1, slope=0.0)
    prior = fitted_prior(train, valid, model)
    found = prior.posterior(both, model)
    nothing = PredictedEffects(np.zeros_like(theta), np.zeros_like(theta))
    without = fitted_prior(train, valid, nothing).posterior(both, nothing)
    own, other = (np.sqrt(((one.mean - theta) ** 2).mean()) for one in (found, without))
    assert own < 1.03 * other


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_calls_have_the_error_rate_that_they_say(slope: float) -> None:
    wrong = calls = 0
    for seed in range(4):
        train, valid, both, model, theta = planted(seed, slope=slope)
        found = fitted_prior(train, valid, model).posterior(both, model)
        call = found.lfsr < 0.05
        calls += call.sum()
        wrong += (call & (np.sign(found.mean) != np.sign(theta))).sum()
        inside = (found.lower <= theta) & (theta <= found.upper)
        assert inside.mean() > 0.88
    assert calls > 700
    assert wrong < 0.05 * calls


def test_it_does_not_depend_on_the_generator_of_torch() -> None:
    train, valid, both, model, _ = planted(0, slope=1.0)
    first = fitted_prior(train, valid, model).posterior(both, model)
    torch.manual_seed(7)
    second = fitted_prior(train, valid, model).posterior(both, model)
    np.testing.assert_array_equal(first.mean, second.mean)


def test_where_the_model_says_nothing_none_is_expected() -> None:
    """By its size alone: the model knows which effects there are, and of no sign which."""
    train, valid, _, model, theta = planted(0, slope=1.0)
    rng = np.random.default_rng(1)
    signs = model.effect * rng.choice([-1.0, 1.0], theta.shape)
    shuffled = rng.permutation(signs.ravel()).reshape(theta.shape)
    informed, uninformed = (
        fitted_prior(train, valid, PredictedEffects(m, model.variance)).weights.log_odds_slope
        for m in (signs, shuffled)
    )
    assert informed < -0.5
    assert uninformed == pytest.approx(0, abs=0.2)


def test_cells_that_the_model_has_not_seen_tell_all() -> None:
    prior = alone(8, noise_inflation=4.0)
    seen, unseen, half = (
        prior.posterior(shown(D, 1.0, trained_on=share), predicted(M)).sd for share in (1, 0, 0.5)
    )
    np.testing.assert_allclose(seen**2, 1 / (1 / 0.5 + 1 / 4), atol=1e-9)
    np.testing.assert_allclose(unseen**2, 1 / (1 / 0.5 + 1), atol=1e-9)
    np.testing.assert_allclose(half**2, 1 / (1 / 0.5 + 0.5 / 4 + 0.5), atol=1e-9)


def test_effects_in_all_replicates_are_those_of_bayes() -> None:
    """Against integration over effects: a point at 0 or normal, seen with noise and replicates."""
    rng = np.random.default_rng(0)
    prior_weight, unit, noise = np.array([0.7, 0, 0, 0.3, 0, 0]), 1.5, 0.2
    between = np.array([0.05, 0.4, 1.0])
    seen = rng.normal(0, 1.5, 3)
    own = Mixture(
        np.array([[0.0] * 3, [1.0] * 3]), np.array([[0.0] * 3, seen]), np.full((2, 3), noise)
    )
    own.variance[0] = 0
    about = ZeroCentred(prior_weight, np.full((1, 3), unit)).in_all_replicates(0, own, between)
    null = 0.7 * norm.pdf(seen, 0, np.sqrt(noise + between))
    other = 0.3 * norm.pdf(seen, 0, np.sqrt(noise + between + unit))
    np.testing.assert_allclose(about.weight[0], null / (null + other), rtol=1e-6)
    gain = unit / (unit + between)
    np.testing.assert_allclose(about.mean[1], gain * seen, rtol=1e-6)
    np.testing.assert_allclose(about.variance[1], gain**2 * noise + gain * between, rtol=1e-6)
    np.testing.assert_allclose(about.weight.sum(0), 1)


def test_replicates_that_do_not_differ_change_nothing() -> None:
    own = Mixture(np.array([[0.2], [0.8]]), np.array([[0.1], [2.0]]), np.array([[0.1], [0.5]]))
    prior = ZeroCentred(np.full(N_ZERO, 1 / N_ZERO), np.ones((1, 1)))
    same = prior.in_all_replicates(0, own, np.zeros(1))
    for ours, before in zip(same, own, strict=True):
        np.testing.assert_allclose(ours, before)


def test_the_share_of_null_effects_is_found_from_noisy_ones() -> None:
    rng = np.random.default_rng(0)
    shape = (20, 300)
    variance = np.broadcast_to(rng.lognormal(-2, 1, shape[1]), shape)
    theta = rng.normal(0, 4 * np.sqrt(variance)) * (rng.random(shape) < 0.2)
    d = theta + rng.normal(0, np.sqrt(variance))
    many = np.full(20, 50)
    for unit in (1.0, 1e3):  # whatever the scale
        found = about_zero(ObservedEffects(d * unit, variance * unit**2, many, many, many))
        assert 0.75 < found.weight[0] < 0.88


def test_genes_too_rare_to_tell_do_not_teach() -> None:
    """Genes with next to no counts, of which the model says wild things, change nothing else."""
    train, valid, both, model, theta = planted(0, slope=1.0)
    alone = fitted_prior(train, valid, model).posterior(both, model)
    n, n_genes = theta.shape
    rng = np.random.default_rng(1)

    def beside(observed: ObservedEffects) -> ObservedEffects:
        wide = np.full((n, n_genes), 6.0)
        return observed._replace(
            difference=np.concatenate([observed.difference, 0 * theta], 1),
            variance=np.concatenate([observed.variance, wide], 1),
            is_rare=np.repeat([[False, True]], n_genes, 1) & np.ones((n, 1), bool),
        )

    wild = PredictedEffects(
        np.concatenate([model.effect, rng.normal(0, 4, theta.shape)], 1),
        np.concatenate([model.variance, np.ones(theta.shape)], 1),
    )
    found = fitted_prior(beside(train), beside(valid), wild).posterior(beside(both), wild)
    np.testing.assert_allclose(found.mean[:, :n_genes], alone.mean, atol=0.05)
    assert (found.lfsr[:, n_genes:] > 0.2).all()
