"""Where cells lie in latent space, and where perturbations move them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Context, Dosage, Shifts

_CELLS = 1024


class Batches(NamedTuple):
    """Batches that cells are drawn from; none of them, where there are no batches."""

    shares: np.ndarray
    """`batch`: share of the cells in each."""
    design: np.ndarray
    """`batch covariate`."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the batch of each particle, `particle 1 covariate`."""
        device = generator.device
        if not len(self.shares):
            return torch.zeros(n, 1, 0, device=device)
        shares = torch.from_numpy(self.shares).float().to(device)
        drawn = torch.multinomial(shares, n, True, generator=generator)
        return torch.from_numpy(self.design).float().to(device)[drawn].unsqueeze(1)


class BasalPosterior(NamedTuple):
    """q(z_basal | x) of some cells."""

    loc: Tensor
    """`cell latent`."""
    scale: Tensor
    """`cell latent`."""
    covariates: Tensor
    """`cell covariate`: their batches."""

    def tensors(self) -> dict[str, Tensor]:
        """Return them by name."""
        return self._asdict()

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw cells, and a state of each: `draw 1 latent`; and `draw 1 covariate`."""
        device = self.loc.device
        cell = torch.randint(len(self.loc), (n, 1), generator=generator, device=device)
        noise = torch.randn((n, 1, self.loc.shape[1]), generator=generator, device=device)
        state = self.loc[cell] + self.scale[cell] * noise
        return state, self.covariates[cell]


@torch.no_grad()
def draw_shifts(
    model: PerturbationVAE, columns: Tensor, n_particles: int, generator: torch.Generator
) -> Shifts:
    """Draw the shifts of some columns of dosage, in their order."""
    noise = model.mechanism.noise(columns, n_particles, generator)
    return model.mechanism.draw(columns, noise)


def of_batch(shifts: Shifts, columns: Tensor, dosage: Dosage) -> Shifts:
    """Return the shifts of a batch's columns out of those of many (sorted) ones.

    Global terms are left out: predictions do not score them.
    """
    if len(columns) == 0:  # control cells alone: their one slot is empty
        n_particles, _, n_latent = shifts.value.shape
        return Shifts(shifts.value.new_zeros(n_particles, 1, n_latent), {})
    position = torch.searchsorted(columns, dosage.columns).clamp(max=len(columns) - 1)
    return Shifts(shifts.value.index_select(1, position), {})


@torch.no_grad()
def control_posterior(model: PerturbationVAE, loader: Loader) -> BasalPosterior:
    """Return q(z_basal | x) of control cells."""
    present = loader.present  # none
    shifts = draw_shifts(model, present, 1, torch.Generator(loader.device))
    parts = []
    for batch in loader.in_order(_CELLS):
        q = model.posterior(batch, of_batch(shifts, present, batch.dosage))
        both = (values.reshape(len(batch.counts), -1) for values in (q.loc, q.scale))
        parts.append((*both, batch.covariates))
    return BasalPosterior(*(torch.cat(values) for values in zip(*parts, strict=True)))


@torch.no_grad()
def latent_means(
    model: PerturbationVAE, loader: Loader, n_particles: int, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Return posterior means of "basal" and "state", `cell latent`."""
    present = loader.present
    shifts = draw_shifts(model, present, n_particles, generator)
    basal, state = [], []
    for batch in loader.in_order(_CELLS):
        own = of_batch(shifts, present, batch.dosage)
        batch = model.with_responses(batch, own, generator)
        context = model.mechanism.context(batch, own)
        mean = model.encoder.posterior(batch, context).loc
        basal.append(_over_particles(mean))
        state.append(_over_particles(model.mechanism.apply_to(mean, context)[0]))
    return {"basal": np.concatenate(basal), "state": np.concatenate(state)}


def _over_particles(values: Context) -> np.ndarray:
    """Return the mean over particles, where there are any: `cell latent`."""
    assert isinstance(values, Tensor)
    mean: np.ndarray = values.reshape(-1, *values.shape[-2:]).mean(0).cpu().numpy()
    return mean
