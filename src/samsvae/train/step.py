"""One training step. Nothing between the draws and the optimiser touches the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samsvae import objective
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Batch, ShiftNoise


def draw_noise(
    model: PerturbationVAE, batch: Batch, n_particles: int, generator: torch.Generator
) -> tuple[ShiftNoise, Tensor]:
    """Draw the noise of one evaluation: of the batch's perturbations, and of its cells."""
    return (
        model.mechanism.noise(batch.dosage.perturbations, n_particles, generator),
        model.encoder.noise(len(batch.counts), n_particles, generator),
    )


class PlainStep:
    """A step as it is written: the definition that faster steps must equal.

    Parameters
    ----------
    model
        Its parameters are updated in place.
    optimizer
        Over those parameters.
    clip_norm
        Largest norm of the gradient; inf: not clipped.
    """

    def __init__(
        self,
        model: PerturbationVAE,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float = math.inf,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clip_norm = clip_norm

    def __call__(
        self, batch: Batch, shift_noise: ShiftNoise, basal_noise: Tensor
    ) -> dict[str, Tensor]:
        """Take one step; return the ELBO, the gradient's norm and each term, on the device."""
        model = self.model
        self.optimizer.zero_grad(set_to_none=True)
        shifts = model.mechanism.draw(batch.dosage.perturbations, shift_noise)
        weights = model(batch, shifts, basal_noise)
        elbo = objective.elbo(weights, batch).mean()
        (-elbo).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            terms = objective.elbo_terms(weights, batch)
        return {"elbo": elbo.detach(), "gradient_norm": norm, **terms}
