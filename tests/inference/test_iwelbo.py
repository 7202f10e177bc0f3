"""The importance weighted likelihood of cells, its errors and its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import samsvae
from helpers.screens import make_adata, read
from samsvae.data.loader import Loader
from samsvae.data.resident import ResidentCells
from samsvae.estimators.base import Estimator
from samsvae.inference.latent import draw_shifts
from samsvae.model.mechanism import AdditiveShift, of_batch
from samsvae.model.vae import PerturbationVAE
from samsvae.train.validator import valid_elbo
from samsvae.types import Batch


def test_iwelbo_rises_with_particles(certain: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    def mean(k: int) -> float:
        runs = [
            certain.iwelbo(screen.test, n_particles=k, seed=seed, progress=False)
            for seed in range(30)
        ]
        return float(np.mean([run["iwelbo"] for run in runs]))

    assert mean(10) > mean(1) + 0.08


def test_iwelbo_errors_are_the_spread_over_seeds(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    runs = [trained.iwelbo(screen.test, n_particles=200, seed=s, progress=False) for s in range(40)]
    values = np.array([run["iwelbo"] for run in runs])
    claimed = np.sqrt(np.mean([run["mc_se"] ** 2 for run in runs], axis=0))
    assert 0.8 < np.sqrt((values.var(0, ddof=1) / claimed**2).mean()) < 1.25
    mean_se = np.sqrt(np.mean([run.attrs["mean_mc_se"] ** 2 for run in runs]))
    assert 0.6 < values.mean(1).std(ddof=1) / mean_se < 1.6


class Held(NamedTuple):
    """The most that is held at once while an IWELBO is taken."""

    particles: int
    rows: int
    """Particles x cells."""
    draws: int
    """Particles x perturbations."""


@pytest.fixture
def held_at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Held]:
    """Return what takes the IWELBO of all cells of a screen, and says how much that holds."""
    seen: list[Held] = []
    forward = PerturbationVAE.forward
    draw = AdditiveShift.draw

    def seen_forward(self: PerturbationVAE, *args: Any, **settings: Any) -> Any:
        n_particles, n_cells = args[2].shape[:2]
        seen.append(Held(n_particles, n_particles * n_cells, 0))
        return forward(self, *args, **settings)

    def seen_draw(self: AdditiveShift, *args: Any, **settings: Any) -> Any:
        drawn = draw(self, *args, **settings)
        n_particles, n_perturbations = drawn.value.shape[:2]
        seen.append(Held(n_particles, 0, n_particles * n_perturbations))
        return drawn

    monkeypatch.setattr(PerturbationVAE, "forward", seen_forward)
    monkeypatch.setattr(AdditiveShift, "draw", seen_draw)

    def ask(model: Estimator, screen: samsvae.Screen, n_particles: int) -> Held:
        seen.clear()
        model.iwelbo(screen, n_particles=n_particles, progress=False)
        return Held(*(max(sizes) for sizes in zip(*seen, strict=True)))

    return ask


def test_iwelbo_holds_no_more_at_once_with_more_particles_or_cells(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, held_at_once: Callable[..., Held]
) -> None:
    held = held_at_once(trained, screen, 600)
    assert held.particles < 600
    assert held.rows < 600 * len(screen)
    more = held_at_once(trained, screen, 1200)
    assert (more.particles, more.draws) == (held.particles, held.draws)
    assert more.rows <= held.rows
    twice = read(make_adata(n_cells=2 * len(screen)))
    assert held_at_once(trained, twice, 600).rows <= held.rows


def test_iwelbo_holds_no_more_at_once_with_more_perturbations(
    held_at_once: Callable[..., Held],
) -> None:
    def held(n_perturbations: int) -> Held:
        labels = ("control", *(f"P{i}" for i in range(n_perturbations)))
        adata = make_adata(n_cells=len(labels), n_genes=3, labels=labels)
        adata.obs["split"] = "train"
        screen = read(adata)
        model = samsvae.SAMSVAE(screen, n_latent=1, n_hidden=2, n_hidden_embedding=2)
        model.train(max_steps=1, batch_size=8, progress=False)
        return held_at_once(model, screen, 100)

    few, many = held(1200), held(3600)
    assert few.particles == 100
    assert many.draws <= 1.2 * few.draws


def test_many_particles_tell_what_few_do(trained: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    few, many = (trained.iwelbo(screen.test, n_particles=k, progress=False) for k in (20, 900))
    assert (many["iwelbo"] - few["iwelbo"]).abs().mean() < 0.2


@pytest.mark.parametrize("n_particles", [9, 50])
def test_the_iwelbo_is_that_of_all_its_particles(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, n_particles: int
) -> None:
    loader = Loader(screen.test)
    generator = torch.Generator().manual_seed(3)
    shifts = draw_shifts(trained.module, loader.present, n_particles, generator)
    batch = next(loader.in_order(1000))
    noise = trained.module.encoder.noise(len(screen.test), n_particles, generator)
    with torch.no_grad():
        own = trained.module(batch, of_batch(shifts, loader.present, batch.dosage), noise)
    weights = (own.likelihood + own.basal).double()
    table = trained.iwelbo(screen.test, n_particles=n_particles, seed=3, progress=False)
    values = weights.logsumexp(0) - np.log(n_particles)
    np.testing.assert_allclose(table["iwelbo"], values, rtol=1e-6)
    ratio = (weights - values).exp()
    mc_se = ratio.std(0) / n_particles**0.5
    np.testing.assert_allclose(table["mc_se"], mc_se, rtol=1e-3)
    # The spread of groups of particles: a particle's group is its remainder by 20.
    n_groups = min(20, n_particles)
    means = torch.stack([ratio[g::n_groups].mean(0) - 1 for g in range(n_groups)]).mean(1)
    mean_mc_se = (means.square().sum() / (n_groups * (n_groups - 1))).sqrt()
    assert table.attrs["mean_mc_se"] == pytest.approx(float(mean_mc_se), rel=1e-3)
    joint = weights.sum(1)
    for ratios in shifts.log_ratios.values():
        joint += ratios.double().sum(1)
    expected = torch.logsumexp(joint, 0) - np.log(n_particles)
    assert table.attrs["joint"] == pytest.approx(float(expected), rel=1e-6)
    assert table.attrs["joint"] < table["iwelbo"].sum()


def test_iwelbo_of_control_cells_alone(trained: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    alone = trained.iwelbo(screen.test.control, n_particles=300, progress=False)
    assert np.isfinite(alone["iwelbo"]).all()


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take batches from resident cells, as on a GPU; return how many cells each had."""
    sizes: list[int] = []
    made = ResidentCells.batch

    def spy(cells: ResidentCells, rows: Tensor) -> Batch:
        sizes.append(len(rows))
        return made(cells, rows)

    monkeypatch.setattr(Loader, "is_resident", True)
    monkeypatch.setattr(ResidentCells, "batch", spy)
    return sizes


def test_a_device_takes_validation_and_answers_from_resident_cells(
    certain: samsvae.SAMSVAE, screen: samsvae.Screen, request: pytest.FixtureRequest
) -> None:
    """The same numbers: the batches list perturbations in another way."""

    def answers() -> list[Any]:
        settings = samsvae.TrainSettings(batch_size=20)
        simulated = certain.simulate("B", cells=screen.test, seed=1).to_df()
        iwelbo = certain.iwelbo(screen.test, n_particles=30, progress=False)
        return [
            valid_elbo(certain.module, Loader(screen.valid), settings).elbo,
            iwelbo.to_numpy(float),
            *certain.latent(screen.test).values(),
            simulated.to_numpy(float),
        ]

    expected = answers()
    sizes = request.getfixturevalue("on_a_device")
    for ours, theirs in zip(answers(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(sizes) > 3
