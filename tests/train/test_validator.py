"""The validation ELBO: what it scores, how many draws it takes, and how far they can mislead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae.data.loader import Loader
from samsvae.model.encoder import Encoder
from samsvae.train import validator as validation
from samsvae.train.validator import ValidElbo, valid_elbo


@pytest.fixture(scope="module")
def model() -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(read(make_adata()), **SMALL).train(max_steps=30, progress=False)


def told(model: samsvae.SAMSVAE, screen: samsvae.Screen, **settings: Any) -> ValidElbo:
    return valid_elbo(model.module, Loader(screen.valid), samsvae.TrainSettings(**settings))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    noises: list[Tensor] = []
    draw = Encoder.noise

    def spy(encoder: Encoder, *given: Any) -> Tensor:
        noises.append(draw(encoder, *given))
        return noises[-1]

    monkeypatch.setattr(Encoder, "noise", spy)
    return noises


@pytest.mark.parametrize("batch_size", [9, 45])
def test_the_standard_error_is_the_spread_over_seeds(
    model: samsvae.SAMSVAE,
    screen: samsvae.Screen,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    monkeypatch.setattr(validation, "PRECISE", math.inf)
    values = [told(model, screen, batch_size=batch_size, seed=seed) for seed in range(100)]
    elbo, mc_se = np.array(values).T
    # Chi squared with 99 degrees of freedom: beyond these bounds once in a million.
    assert 0.65 < elbo.std(ddof=1) / np.sqrt(np.mean(mc_se**2)) < 1.4


def test_draws_are_taken_until_they_are_enough(
    model: samsvae.SAMSVAE,
    screen: samsvae.Screen,
    monkeypatch: pytest.MonkeyPatch,
    drawn: list[Tensor],
) -> None:
    precise = told(model, screen)
    n_precise = sum(map(len, drawn))
    assert precise.mc_se <= 0.02
    assert n_precise > 9
    drawn.clear()
    between = precise.mc_se * math.sqrt(n_precise / 8)  # 8 draws give it, 6 hardly
    monkeypatch.setattr(validation, "PRECISE", between)
    enough = told(model, screen)
    assert 6 < sum(map(len, drawn)) < n_precise
    assert enough.mc_se <= between
    assert enough.elbo == pytest.approx(precise.elbo, abs=5 * enough.mc_se)
    drawn.clear()
    monkeypatch.setattr(validation, "PRECISE", 0.001)  # more than the most draws can give
    assert told(model, screen).mc_se > 0.001
    assert sum(map(len, drawn)) == 2**14 // 45


def test_two_draws_are_enough_on_a_large_screen(
    model: samsvae.SAMSVAE,
    screen: samsvae.Screen,
    monkeypatch: pytest.MonkeyPatch,
    drawn: list[Tensor],
) -> None:
    monkeypatch.setattr(validation, "PRECISE", 1.0)
    told(model, screen, batch_size=9, n_particles=7)
    assert [noise.shape[:2] for noise in drawn] == 5 * [(2, 9)]


def test_the_first_draws_are_always_the_same(
    model: samsvae.SAMSVAE, screen: samsvae.Screen, drawn: list[Tensor]
) -> None:
    first, noises = told(model, screen), list(drawn)
    drawn.clear()
    assert told(model, screen) == first
    assert all(map(torch.equal, drawn, noises))
    trained = samsvae.SAMSVAE(screen, **SMALL).train(max_steps=5, progress=False)
    drawn.clear()
    told(trained, screen)
    assert torch.equal(drawn[0], noises[0])


def test_validation_elbo_is_the_mean_over_cells(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    assert len(screen.valid) == 45
    uneven, whole = (told(model, screen, batch_size=size) for size in (44, 45))
    error = math.hypot(uneven.mc_se, whole.mc_se)
    assert uneven.elbo == pytest.approx(whole.elbo, abs=5 * error)


def test_few_validation_cells_do_not_add_to_the_cost_of_globals(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    """The KL of the globals is divided by a split's cells of a perturbation: it must not count."""
    loader, settings = Loader(screen.valid), samsvae.TrainSettings()
    before = valid_elbo(model.module, loader, settings)
    loader.cells_per_column = np.ones_like(loader.cells_per_column)
    assert valid_elbo(model.module, loader, settings) == before


def test_a_rare_mask_does_not_spread_the_draws(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(mask_prob: float) -> float:
        model = samsvae.SAMSVAE(screen, **SMALL | {"mask_prob": mask_prob})
        # As it starts: settled masks would differ with their prior.
        model.train(max_steps=1, alignment="none", progress=False)
        return told(model, screen).mc_se

    monkeypatch.setattr(validation, "PRECISE", math.inf)
    assert error(1e-9) == pytest.approx(error(0.5), rel=0.1)
