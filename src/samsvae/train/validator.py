"""The validation ELBO."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from samsvae import objective
from samsvae.data.loader import Loader
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import TrainSettings
from samsvae.train.processes import Alone, Processes

PRECISE = 0.02
"""Monte Carlo standard error, nats per cell, at which there are draws enough."""
_PAIRS = 2**14
"""Most (particle, cell) pairs of an evaluation that needs more than the fewest draws: about what
ten steps cost, however many cells there are."""
_ROWS = 2**13
"""Most (particle, cell) rows that are held at once."""
_FREEDOM = 5
"""Least degrees of freedom of the spread between draws: with fewer it may be small by chance."""


class ValidElbo(NamedTuple):
    """The validation ELBO, nats per cell."""

    elbo: float
    mc_se: float
    """Monte Carlo standard error: of the draws, for these very cells."""


def valid_elbo(
    model: PerturbationVAE,
    loader: Loader,
    settings: TrainSettings,
    processes: Processes | None = None,
) -> ValidElbo:
    """Return the ELBO of a loader's cells, always from the same noise.

    Particles are drawn until the standard error is at most 0.02 nats: two on large screens, more
    where cells are few, up to 16,384 (particle, cell) pairs. The cells of a batch share the draws
    of the globals and batches share none, so with S_kb the sum over the cells of batch b

    ELBO = 1/N sum_b mean_k S_kb,    mc_se^2 = 1/N^2 sum_b var_k(S_kb) / K.

    KL terms of the globals are taken in closed form, where there is one: with a sparse prior of the
    mask their draws would be most of the spread. Those of cells are drawn: their noise cancels
    much of the likelihood's.

    Of several processes each takes some of the batches, with the noise that they have for one.
    """
    processes = processes or Alone()
    generator = torch.Generator(loader.device).manual_seed(settings.seed)
    n_cells = len(loader.screen)
    size = min(settings.batch_size, n_cells)
    n_batches = math.ceil(n_cells / size)
    wanted = 1 + math.ceil(_FREEDOM / n_batches)
    most, together = max(wanted, _PAIRS // n_cells), max(2, _ROWS // size)
    sums = torch.zeros(0, n_batches, dtype=torch.float64, device=loader.device)
    mc_se = math.nan
    while len(sums) < wanted:
        n_particles = min(wanted - len(sums), together)
        more = _sums(model, loader, size, n_particles, generator, processes)
        sums = torch.cat([sums, more])
        mc_se = (sums.var(0).sum() / len(sums)).sqrt().item() / n_cells
        if mc_se > PRECISE:
            wanted = min(most, max(wanted, math.ceil(len(sums) * (mc_se / PRECISE) ** 2)))
    return ValidElbo(sums.mean(0).sum().item() / n_cells, mc_se)


@torch.no_grad()
def _sums(
    model: PerturbationVAE,
    loader: Loader,
    size: int,
    n_particles: int,
    generator: torch.Generator,
    processes: Processes,
) -> Tensor:
    """Return the sum of the ELBO over the cells of every batch, `particle batch`, nats."""
    n_cells = len(loader.screen)
    starts = range(0, n_cells, size)
    mine = set(range(len(starts))[processes.part])
    sums = torch.zeros(n_particles, len(starts), dtype=torch.float64, device=loader.device)
    for i, start in enumerate(starts):
        rows = slice(start, min(start + size, n_cells))
        batch = loader.batch(rows) if i in mine else None
        named = loader.perturbations(rows) if batch is None else batch.dosage.perturbations
        shift_noise = model.mechanism.noise(named, n_particles, generator)
        basal_noise = model.encoder.noise(rows.stop - start, n_particles, generator)
        if batch is not None:
            shifts = model.mechanism.draw(named, shift_noise, closed_form=True)
            weights = model(batch, shifts, basal_noise)
            sums[:, i] = objective.log_weights(weights, batch).double().sum(1)
    processes.sum([sums])
    return sums
