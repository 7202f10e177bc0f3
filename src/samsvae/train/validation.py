"""The validation ELBO."""

from __future__ import annotations

import torch

from samsvae import objective
from samsvae.data.loader import Loader
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import TrainSettings
from samsvae.train.step import draw_noise

_VALID_PARTICLES = 5
"""At least so many draws give the validation ELBO, however few a step takes."""


def valid_elbo(model: PerturbationVAE, loader: Loader, settings: TrainSettings) -> float:
    """Return the ELBO of a loader's cells, nats per cell, always from the same noise."""
    generator = torch.Generator(loader.device).manual_seed(settings.seed)
    n_particles = max(settings.n_particles, _VALID_PARTICLES)
    total = torch.zeros((), device=loader.device)
    with torch.no_grad():
        for batch in loader.in_order(settings.batch_size):
            shift_noise, basal_noise = draw_noise(model, batch, n_particles, generator)
            shifts = model.mechanism.draw(batch.dosage.perturbations, shift_noise)
            total += objective.elbo(model(batch, shifts, basal_noise), batch).sum()
    return total.item() / len(loader.screen)
