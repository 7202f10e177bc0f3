"""One training step. Nothing between the draws and the optimiser touches the host."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
    importance_weighted
        Ascend `objective.iwelbo_surrogate` instead of the ELBO.
    closed_form
        Take KL terms in closed form, where there is one, instead of by draws.
    """

    def __init__(
        self,
        model: PerturbationVAE,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float = math.inf,
        importance_weighted: bool = False,
        closed_form: bool = False,
    ) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.per_cell = objective.iwelbo_surrogate if importance_weighted else objective.elbo
        self.closed_form = closed_form

    def __call__(
        self,
        batch: Batch,
        shift_noise: ShiftNoise,
        basal_noise: Tensor,
        factors: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Take one step; `factors` weigh the latent variables, see `objective.weighted`.

        Return, on the device: the objective, the unweighted ELBO and each of its terms (nats per
        cell), and the norm of the gradient.
        """
        model, closed_form = self.model, self.closed_form
        self.optimizer.zero_grad(set_to_none=True)
        shifts = model.mechanism.draw(
            batch.dosage.perturbations, shift_noise, closed_form=closed_form
        )
        weights = model(batch, shifts, basal_noise, closed_form=closed_form)
        paid = objective.weighted(weights, factors) if factors else weights
        value = self.per_cell(paid, batch).mean()
        (-value).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            terms = objective.elbo_terms(weights, batch)
            elbo = torch.stack(list(terms.values())).sum()
        return {"objective": value.detach(), "elbo": elbo, "gradient_norm": norm, **terms}
