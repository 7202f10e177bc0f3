"""The contract of the latent variables (masks, embeddings, encoders): one body over every kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import bernoulli, norm
from scipy.stats import beta as beta_law
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import errors
from samsvae.model.embedding import Embedding, FreeEmbedding, MaskedEmbedding, PointEmbedding
from samsvae.model.encoder import Encoder, StateEncoder
from samsvae.model.mask import MASKS, BernoulliMask, BetaBernoulliMask, FullMask, Mask, MaskPrior
from samsvae.model.mask import PointBetaBernoulliMask as PointMask
from samsvae.model.networks import GaussianNetwork
from samsvae.ops import beta
from samsvae.types import Batch, Dosage, Draw

N_PERTURBATIONS, N_LATENT, N_CELLS, N_GENES, N_COVARIATES = 4, 3, 5, 6, 2
SIZE = (N_PERTURBATIONS, N_LATENT)
EVERY, CELLS = torch.arange(N_PERTURBATIONS), torch.arange(N_CELLS)
PRIOR = MaskPrior(prob=0.2, a=0.7, b=3.0)
SCALE = 0.6
Module = TypeVar("Module", bound=nn.Module)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def shaken(module: Module) -> Module:
    """Return a module in float64 with parameters that are nowhere special."""
    module.double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=seed))
    return module


def make_mask(kind: type[Mask]) -> Mask:
    return shaken(FullMask(*SIZE) if kind is FullMask else kind(*SIZE, PRIOR))


EMBEDDINGS: dict[type[Embedding], Callable[[], Embedding]] = {
    FreeEmbedding: lambda: FreeEmbedding(*SIZE, scale=SCALE),
    MaskedEmbedding: lambda: MaskedEmbedding(*SIZE, scale=SCALE, width=7, n_layers=3),
    PointEmbedding: lambda: PointEmbedding(*SIZE),
}


def make_encoder(kind: type[Encoder], n_context: int, *, log1p: bool = True) -> Encoder:
    widths = (N_GENES, N_COVARIATES, N_LATENT)
    encoder = shaken(kind(*widths, n_context=n_context, width=7, n_layers=2, log1p=log1p))
    encoder.standardise_with(normal(N_GENES), normal(N_GENES, seed=1).exp())
    return encoder


MASK = (normal(*SIZE) > 0).double()
CONTEXT = normal(1, N_CELLS, N_LATENT, seed=2)
COUNTS = torch.poisson(normal(N_CELLS, N_GENES).exp() * 3, generator=seeded(0))
COVARIATES = torch.eye(N_COVARIATES, dtype=torch.float64)[CELLS % N_COVARIATES]


def batch_of(rows: Tensor) -> Batch:
    nothing = torch.zeros(len(rows), 0)
    dosage = Dosage(torch.arange(0), nothing.long(), nothing.double())
    counts = COUNTS[rows]
    return Batch(counts, counts.sum(1), COVARIATES[rows], dosage, nothing[0])


class Variable(NamedTuple):
    """A latent variable: draws of rows (perturbations or cells), and its posterior mean."""

    module: nn.Module
    n_rows: int
    noise: Callable[[int, torch.Generator], Tensor]
    draw: Callable[[Tensor, Tensor, bool], Draw]
    mean: Tensor

    def draws(self, n_particles: int, *, closed_form: bool = False) -> Draw:
        noise = self.noise(n_particles, seeded(0))
        return self.draw(torch.arange(self.n_rows), noise, closed_form)


def of_mask(kind: type[Mask]) -> Variable:
    mask = make_mask(kind)
    return Variable(
        mask,
        N_PERTURBATIONS,
        lambda n, generator: mask.noise(EVERY, n, generator),
        lambda rows, noise, closed: mask.draw(rows, noise, closed_form=closed),
        mask.probability(),
    )


def of_embedding(kind: type[Embedding]) -> Variable:
    embedding = shaken(EMBEDDINGS[kind]())
    return Variable(
        embedding,
        N_PERTURBATIONS,
        lambda n, generator: embedding.noise(EVERY, n, generator),
        lambda rows, noise, closed: embedding.draw(rows, MASK[rows], noise, closed_form=closed),
        embedding.mean(EVERY, MASK),
    )


def of_encoder(kind: type[Encoder], n_context: int) -> Variable:
    encoder = make_encoder(kind, n_context)
    return Variable(
        encoder,
        N_CELLS,
        lambda n, generator: encoder.noise(N_CELLS, n, generator),
        lambda rows, noise, closed: encoder.draw(
            batch_of(rows), CONTEXT[:, rows], noise, closed_form=closed
        ),
        encoder.posterior(batch_of(CELLS), CONTEXT).loc.view(*CELLS.shape, N_LATENT),
    )


EVERY_MASK: list[type[Mask]] = [*MASKS, FullMask]
VARIABLES: dict[str, Callable[[], Variable]] = {
    **{kind.__name__: partial(of_mask, kind) for kind in EVERY_MASK},
    **{kind.__name__: partial(of_embedding, kind) for kind in EMBEDDINGS},
    "Encoder": partial(of_encoder, Encoder, 0),
    "Encoder given the shift": partial(of_encoder, Encoder, N_LATENT),
    "StateEncoder": partial(of_encoder, StateEncoder, 0),
}
every_mask = pytest.mark.parametrize("kind", EVERY_MASK)


@pytest.fixture(params=VARIABLES)
def variable(request: pytest.FixtureRequest) -> Variable:
    return VARIABLES[request.param]()


@pytest.fixture(params=[False, True], ids=["drawn", "closed_form"])
def closed_form(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def gradients(draw: Draw, module: nn.Module) -> tuple[Tensor, ...]:
    """Return those of a sum of everything drawn, by parameter."""
    total = (draw.value * normal(*draw.value.shape)).sum() + draw.log_ratio.sum()
    parameters = list(module.parameters())
    return torch.autograd.grad(total, parameters) if parameters else ()


def mean_is(values: Tensor, expected: Tensor) -> bool:
    """Say whether draws (first axis) have a mean, as far as their own spread tells."""
    se = values.std(0) / len(values) ** 0.5
    return bool(((values.mean(0) - expected).abs() <= errors(se.numel()) * se + 1e-9).all())


def test_shapes(variable: Variable, closed_form: bool) -> None:
    assert variable.noise(2, seeded(0)).shape[:2] == (2, variable.n_rows)
    draw = variable.draws(2, closed_form=closed_form)
    assert draw.value.shape == (2, variable.n_rows, N_LATENT)
    assert draw.log_ratio.shape == (2, variable.n_rows)
    assert variable.mean.shape == (variable.n_rows, N_LATENT)


def test_noise_is_a_function_of_the_seed_and_a_draw_of_its_noise(variable: Variable) -> None:
    noise = variable.noise(2, seeded(3))
    assert torch.equal(variable.noise(2, seeded(3)), noise)
    assert noise.numel() == 0 or not torch.equal(variable.noise(2, seeded(4)), noise)
    first, second = variable.draws(2), variable.draws(2)
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.log_ratio, second.log_ratio)


def test_rows_are_drawn_each_by_itself(variable: Variable, closed_form: bool) -> None:
    rows, noise = torch.tensor([3, 1]), variable.noise(6, seeded(0))
    some = variable.draw(rows, noise[:, rows], closed_form)
    whole = variable.draws(6, closed_form=closed_form)
    torch.testing.assert_close(some.value, whole.value[:, rows])
    torch.testing.assert_close(some.log_ratio, whole.log_ratio[:, rows])


def test_a_gradient_reaches_every_parameter(variable: Variable, closed_form: bool) -> None:
    draw = variable.draws(5, closed_form=closed_form)
    for gradient in gradients(draw, variable.module):
        assert torch.all(torch.isfinite(gradient))
        assert torch.all(gradient != 0)


def test_draws_have_the_mean_of_the_posterior(variable: Variable) -> None:
    assert mean_is(variable.draws(20_000).value.detach(), variable.mean.detach())


def test_the_closed_form_is_the_mean_of_the_drawn_log_ratio(variable: Variable) -> None:
    drawn = variable.draws(20_000).log_ratio.detach()
    closed = variable.draws(2, closed_form=True).log_ratio.detach()
    assert torch.equal(closed[0], closed[1])
    assert mean_is(drawn, closed[0])


def test_nothing_is_paid_without_a_variable_alone(variable: Variable) -> None:
    if isinstance(variable.module, Mask | Embedding):
        paid = bool(variable.draws(4).log_ratio.any())
        assert (variable.module.variable is not None) == paid


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


def array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().numpy()


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
    logit = beta.logit(*map(torch.exp, mask.parameters()), beta.Noise(*noise.unbind(-1)[1:]))
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
