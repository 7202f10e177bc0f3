"""Embeddings and encoders: Gaussians whose parameters networks give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from helpers.latent_variables import (
    CELLS,
    CONTEXT,
    COUNTS,
    COVARIATES,
    EVERY,
    MASK,
    N_CELLS,
    N_GENES,
    N_LATENT,
    N_PERTURBATIONS,
    SCALE,
    SIZE,
    array,
    batch_of,
    make_encoder,
    shaken,
)
from helpers.tensors import normal, seeded
from samsvae.model.embedding import FreeEmbedding, MaskedEmbedding
from samsvae.model.encoder import Encoder, StateEncoder
from samsvae.model.networks import GaussianNetwork
from samsvae.types import Draw


def by_hand(network: GaussianNetwork, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, from the parts side by side."""
    first = network.hidden.first
    hidden = F.leaky_relu(torch.cat(parts, -1) @ first.weight.T + first.bias)
    for layer in network.hidden.rest:
        hidden = F.leaky_relu(layer(hidden)) + hidden
    mean, raw_variance = network.heads(hidden).chunk(2, -1)
    return mean, (raw_variance.exp() + 1e-4).sqrt()


def is_gaussian(draw: Draw, noise: Tensor, loc: Tensor, sd: Tensor, *, prior_sd: float) -> None:
    torch.testing.assert_close(draw.value, loc + sd * noise)
    value, own = array(draw.value), (array(loc), array(sd))
    ratio = norm.logpdf(value, 0, prior_sd) - norm.logpdf(value, *own)
    np.testing.assert_allclose(array(draw.log_ratio), ratio.sum(-1), rtol=1e-8)


def test_the_free_embedding_is_drawn_from_its_own_gaussian() -> None:
    embedding = shaken(FreeEmbedding(*SIZE, scale=SCALE))
    noise = embedding.noise(EVERY, 6, seeded(0))
    draw = embedding.draw(EVERY, MASK, noise)
    loc, log_scale = embedding.parameters()
    is_gaussian(draw, noise, loc, log_scale.exp() + 1e-4, prior_sd=SCALE)


def test_the_masked_embedding_sees_each_particles_mask_and_the_perturbation() -> None:
    embedding = shaken(MaskedEmbedding(*SIZE, scale=SCALE, width=7, n_layers=3))
    noise, mask = embedding.noise(EVERY, 6, seeded(0)), (normal(6, *SIZE) > 0).double()
    draw = embedding.draw(EVERY, mask, noise)
    one_hot = torch.eye(N_PERTURBATIONS, dtype=torch.float64).expand(6, -1, -1)
    is_gaussian(draw, noise, *by_hand(embedding.network, mask, one_hot), prior_sd=SCALE)


@pytest.mark.parametrize("n_context", [0, N_LATENT])
@pytest.mark.parametrize("log1p", [True, False])
def test_the_encoder_sees_standardised_counts_and_what_it_is_given(
    n_context: int, log1p: bool
) -> None:
    encoder = make_encoder(Encoder, n_context, log1p=log1p)
    noise = encoder.noise(N_CELLS, 6, seeded(0))
    draw = encoder.draw(batch_of(CELLS), CONTEXT, noise)
    counts = (COUNTS.log1p() if log1p else COUNTS).sub(normal(N_GENES))
    parts = counts / normal(N_GENES, seed=1).exp(), CONTEXT[0, :, :n_context], COVARIATES
    is_gaussian(draw, noise, *by_hand(encoder.network, *parts), prior_sd=1.0)


def test_the_state_encoder_infers_the_state() -> None:
    encoder = make_encoder(StateEncoder, 0)
    noise, batch = encoder.noise(N_CELLS, 6, seeded(0)), batch_of(CELLS)
    context = normal(6, N_CELLS, N_LATENT, seed=5)
    draw = encoder.draw(batch, context, noise)
    state = draw.value + context
    elsewhere = encoder.draw(batch, 0 * context, noise).value
    torch.testing.assert_close(state, elsewhere)
    q = Encoder.posterior(encoder, batch, context)
    density = norm.logpdf(array(state), array(context), 1)
    textbook = density - norm.logpdf(array(state), array(q.loc), array(q.scale))
    np.testing.assert_allclose(array(draw.log_ratio), textbook.sum(-1), rtol=1e-10)
