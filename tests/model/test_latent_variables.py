"""The contract of the latent variables (masks, embeddings, encoders): one body over every kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from helpers.latent_variables import (
    CELLS,
    CONTEXT,
    EMBEDDINGS,
    EVERY,
    EVERY_MASK,
    MASK,
    N_CELLS,
    N_LATENT,
    N_PERTURBATIONS,
    batch_of,
    gradients,
    make_encoder,
    make_mask,
    shaken,
)
from helpers.statistics import errors
from helpers.tensors import seeded
from samsvae.model.embedding import Embedding
from samsvae.model.encoder import Encoder, StateEncoder
from samsvae.model.mask import Mask
from samsvae.types import Draw


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


VARIABLES: dict[str, Callable[[], Variable]] = {
    **{kind.__name__: partial(of_mask, kind) for kind in EVERY_MASK},
    **{kind.__name__: partial(of_embedding, kind) for kind in EMBEDDINGS},
    "Encoder": partial(of_encoder, Encoder, 0),
    "Encoder given the shift": partial(of_encoder, Encoder, N_LATENT),
    "StateEncoder": partial(of_encoder, StateEncoder, 0),
}


@pytest.fixture(params=VARIABLES)
def variable(request: pytest.FixtureRequest) -> Variable:
    return VARIABLES[request.param]()


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
