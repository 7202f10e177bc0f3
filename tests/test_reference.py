"""Our model against numbers recorded from the published implementation, in float64.

|ours - theirs| <= 1e-9 (1 + max|theirs|) per array: densities per element, terms, objective,
predictive IWELBO, parameters of the distributions, and every gradient.
"""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli

from helpers.recorded import BY_LOGARITHM, FILES, PARAMETERS, Recorded, agree, arranged
from samsvae import objective
from samsvae.model.embedding import (
    GaussianEmbedding,
)
from samsvae.model.likelihood import (
    GaussianLikelihood,
    NegativeBinomialLikelihood,
)
from samsvae.model.mask import (
    BernoulliMask,
    BetaBernoulliMask,
    PointBetaBernoulliMask,
)
from samsvae.model.mechanism import AdditiveShift
from samsvae.ops.draws import BetaNoise, beta_logit


@pytest.fixture(params=FILES, scope="module")
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_densities_and_parameters_of_the_mask(recorded: Recorded) -> None:
    a, mechanism = recorded.arrays, recorded.model.mechanism
    if "draw.mask" not in a:
        pytest.skip("no mask is inferred")
    assert isinstance(mechanism, AdditiveShift)
    mask, noise = mechanism.mask, recorded.noise.mask
    recorded.agrees("draw.mask", mask.draw(recorded.everyone, noise).value)
    if isinstance(mask, BernoulliMask):
        recorded.agrees("log_prior.mask", mask.prior().log_prob(a["draw.mask"]))
        q_mask = mask.posterior(recorded.everyone)
        recorded.agrees("posterior.mask.probs", q_mask.probs)
        recorded.agrees("log_posterior.mask", q_mask.log_prob(a["draw.mask"]))
        return
    # Given p, the mask's posterior is its prior: m ~ Bernoulli(p).
    given_p = Bernoulli(a["draw.mask_prob"])
    for key in ("log_prior.mask", "log_posterior.mask"):
        recorded.agrees(key, given_p.log_prob(a["draw.mask"]))
    if isinstance(mask, PointBetaBernoulliMask):
        for key in ("draw.mask_prob", "posterior.mask.probs"):
            recorded.agrees(key, mask.probability().expand_as(a[key]))
        log_prior = mask.log_prior(recorded.everyone)
        recorded.agrees("log_prior.mask_prob", log_prior.expand_as(a["draw.mask_prob"]))
        assert not a["log_posterior.mask_prob"].any()
    else:
        assert isinstance(mask, BetaBernoulliMask)
        drawn = BetaNoise(*noise.unbind(-1)[1:])
        q_prob = mask.posterior(recorded.everyone)
        logit = beta_logit(q_prob.concentration1, q_prob.concentration0, drawn)
        recorded.agrees("posterior.mask.probs", logit.sigmoid())
        recorded.agrees("log_prior.mask_prob", mask.prior().log_prob(a["draw.mask_prob"]))
        recorded.agrees("log_posterior.mask_prob", q_prob.log_prob(a["draw.mask_prob"]))


def test_densities_and_parameters_of_the_embedding(recorded: Recorded) -> None:
    a, mechanism = recorded.arrays, recorded.model.mechanism
    if "draw.embedding" not in a:
        pytest.skip("no embedding is inferred")
    assert isinstance(mechanism, AdditiveShift)
    assert isinstance(mechanism.embedding, GaussianEmbedding)
    mask = mechanism.mask.draw(recorded.everyone, recorded.noise.mask).value
    posterior = mechanism.embedding.posterior(recorded.everyone, mask)
    recorded.agrees("posterior.embedding.loc", posterior.loc)
    recorded.agrees("posterior.embedding.scale", posterior.scale)
    e = a["draw.embedding"]
    recorded.agrees("log_prior.embedding", mechanism.embedding.prior().log_prob(e))
    recorded.agrees("log_posterior.embedding", posterior.log_prob(e))


def test_densities_and_parameters_of_the_basal_state(recorded: Recorded) -> None:
    z, name = recorded.arrays[f"draw.{recorded.basal_name}"], recorded.basal_name
    loc = recorded.basal.loc + recorded.moved
    recorded.agrees(f"posterior.{name}.loc", loc)
    recorded.agrees(f"posterior.{name}.scale", recorded.basal.scale)
    basal = z - recorded.moved
    recorded.agrees(f"log_prior.{name}", recorded.model.encoder.prior().log_prob(basal))
    recorded.agrees(f"log_posterior.{name}", recorded.basal.log_prob(basal))


def test_parameters_of_the_likelihood(recorded: Recorded) -> None:
    likelihood = recorded.model.likelihood
    if isinstance(likelihood, NegativeBinomialLikelihood):
        mean = likelihood.mean(recorded.hidden, recorded.batch.library_size)
    else:
        mean = likelihood.expectation(recorded.hidden)
    recorded.agrees("likelihood_of_counts.mean", mean)
    if isinstance(likelihood, GaussianLikelihood):
        scale = likelihood.distribution(recorded.hidden).scale
        recorded.agrees("likelihood_of_counts.scale", scale)


def test_terms_and_objectives(recorded: Recorded) -> None:
    weights, batch = recorded.weights, recorded.batch
    terms = {
        "likelihood": weights.likelihood,
        recorded.basal_name: weights.basal,
        **{name: objective.per_cell(values, batch) for name, values in weights.shifts.items()},
    }
    if "term.mask_prob" in recorded.arrays:  # given p, the mask pays nothing
        terms["mask"] = torch.zeros_like(weights.likelihood)
    assert {f"term.{name}" for name in terms} == {
        key for key in recorded.arrays if key.startswith("term.")
    }
    for name, values in terms.items():
        recorded.agrees(f"term.{name}", values)
    recorded.agrees("log_weight", objective.log_weights(weights, batch))
    recorded.agrees("loss", recorded.loss)
    iwelbo = objective.iwelbo(objective.predictive_log_weights(weights))
    recorded.agrees("predictive_iwelbo", iwelbo)


def test_gradients(recorded: Recorded) -> None:
    parameters = dict(recorded.model.named_parameters())
    gradients = {
        ours: recorded.arrays[f"grad.{theirs}"]
        for theirs, ours in recorded.names.items()
        if f"grad.{theirs}" in recorded.arrays
    }
    gradients = arranged(recorded.model, gradients)
    assert set(gradients) == set(parameters)
    for name in gradients.keys() - {PARAMETERS[key] for key in BY_LOGARITHM}:
        ours = torch.autograd.grad(recorded.loss, parameters[name], retain_graph=True)
        agree(f"gradient of {name}", ours[0], gradients[name])
