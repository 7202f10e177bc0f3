"""Masks: zeros and ones, their gradients, and what their draws pay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import bernoulli
from scipy.stats import beta as beta_law
from torch import nn

from helpers.latent_variables import (
    EVERY,
    EVERY_MASK,
    N_LATENT,
    PRIOR,
    SIZE,
    array,
    gradients,
    make_mask,
    shaken,
)
from helpers.statistics import errors
from helpers.tensors import seeded
from samsvae.model.mask import BernoulliMask, BetaBernoulliMask, Mask, MaskPrior
from samsvae.model.mask import PointBetaBernoulliMask as PointMask
from samsvae.ops.draws import BetaNoise, beta_logit

every_mask = pytest.mark.parametrize("kind", EVERY_MASK)


@every_mask
def test_a_mask_has_its_own_name_and_parameters_only_with_a_variable(kind: type[Mask]) -> None:
    assert (kind.variable is None) == (not list(make_mask(kind).parameters()))
    assert [other.name for other in EVERY_MASK].count(kind.name) == 1


@every_mask
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_are_exactly_zero_or_one(kind: type[Mask], dtype: torch.dtype) -> None:
    mask = make_mask(kind).to(dtype)
    value = mask.draw(EVERY, mask.noise(EVERY, 1000, seeded(0))).value
    assert torch.all((value == 0) | (value == 1))


@every_mask
def test_float32_masks_are_finite_at_extreme_parameters(
    kind: type[Mask], closed_form: bool
) -> None:
    mask = make_mask(kind).float()
    parameters = dict(mask.named_parameters())
    for signs in itertools.product([-1, 1], repeat=len(parameters)):
        for sign, (name, parameter) in zip(signs, parameters.items(), strict=True):
            nn.init.constant_(parameter, sign * (40.0 if name == "logits" else 6.0))
        draw = mask.draw(EVERY, mask.noise(EVERY, 500, seeded(0)), closed_form=closed_form)
        assert torch.all(torch.isfinite(draw.log_ratio))
        for gradient in gradients(draw, mask):
            assert torch.all(torch.isfinite(gradient))


@pytest.mark.parametrize("kind", [BernoulliMask, PointMask])
def test_the_gradient_of_a_mask_is_that_of_the_relaxed_draw(kind: type[Mask]) -> None:
    mask = make_mask(kind)
    noise = mask.noise(EVERY, 1, seeded(0))
    (gradient,) = torch.autograd.grad(mask.draw(EVERY, noise).value.sum(), [*mask.parameters()])
    (logits,) = (parameter.detach() for parameter in mask.parameters())
    relaxed = expit((logits + noise[0].log() - (1 - noise[0]).log()).numpy())
    np.testing.assert_allclose(gradient, relaxed * (1 - relaxed), rtol=1e-10)


def test_the_bernoulli_mask_weighs_its_draws() -> None:
    mask = make_mask(BernoulliMask)
    value, log_ratio = mask.draw(EVERY, mask.noise(EVERY, 6, seeded(0)))
    drawn, prob = array(value), array(mask.probability())
    by_hand = bernoulli.logpmf(drawn, PRIOR.prob) - bernoulli.logpmf(drawn, prob)
    np.testing.assert_allclose(array(log_ratio), by_hand.sum(-1), rtol=1e-10)


def test_the_beta_bernoulli_mask_weighs_its_probabilities() -> None:
    mask = make_mask(BetaBernoulliMask)
    noise = mask.noise(EVERY, 6, seeded(0))
    a, b = (np.exp(array(parameter)) for parameter in mask.parameters())
    logit = beta_logit(*map(torch.exp, mask.parameters()), BetaNoise(*noise.unbind(-1)[1:]))
    p = array(logit.sigmoid())
    by_hand = beta_law.logpdf(p, PRIOR.a, PRIOR.b) - beta_law.logpdf(p, a, b)
    value, log_ratio = mask.draw(EVERY, noise)
    np.testing.assert_allclose(array(log_ratio), by_hand.sum(-1), rtol=1e-10)
    np.testing.assert_array_equal(array(value), array(noise[..., 0]) > 1 - p)


def test_a_beta_posterior_near_zero_pays_its_kl_in_single_precision() -> None:
    """Where p itself has no digits left, its logit has."""
    mask = BetaBernoulliMask(1, 1, MaskPrior(a=1.0, b=2.0))
    with torch.no_grad():
        mask.log_a.fill_(-3.0)
        mask.log_b.fill_(1.0)
    one, n_draws = torch.zeros(1, dtype=torch.int64), 100_000
    noise = mask.noise(one, n_draws, seeded(0))
    drawn = mask.draw(one, noise).log_ratio.double()
    exact = mask.draw(one, noise[:1], closed_form=True).log_ratio.item()
    assert exact < -16
    assert abs(drawn.mean() - exact) < errors() * drawn.std() / n_draws**0.5


@pytest.mark.parametrize("p", [0.02, 0.4])
def test_a_point_probability_is_a_bernoulli_mask_plus_its_beta_density(p: float) -> None:
    point, plain = make_mask(PointMask), shaken(BernoulliMask(*SIZE, MaskPrior(p)))
    for parameter in (*point.parameters(), *plain.parameters()):
        nn.init.constant_(parameter, float(np.log(p / (1 - p))))
    noise = plain.noise(EVERY, 50, seeded(0))
    ours, theirs = point.draw(EVERY, noise), plain.draw(EVERY, noise)
    assert torch.equal(ours.value, theirs.value)
    density = N_LATENT * beta_law.logpdf(p, PRIOR.a, PRIOR.b)
    torch.testing.assert_close(ours.log_ratio, theirs.log_ratio + density)
