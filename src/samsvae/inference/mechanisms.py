"""Where perturbations move cells in latent space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samsvae.inference.latent import Batches, draw_shifts
from samsvae.model.vae import PerturbationVAE

_ELEMENTS = 2**21
"""Largest number of (particle, gene) or (draw, perturbation, latent) elements held at once."""


class Loadings(NamedTuple):
    """What moving along a latent dimension does to each gene, over basal states, `gene` each."""

    mean: np.ndarray
    mc_se: np.ndarray
    """Monte Carlo standard error of the mean."""
    sd: np.ndarray
    """How much it differs between cells of different basal states."""


@torch.no_grad()
def loadings(
    model: PerturbationVAE,
    dimension: int,
    *,
    steps: Sequence[float],
    n_particles: int,
    batches: Batches,
    generator: torch.Generator,
) -> list[Loadings]:
    """Return the mean change of expression when a dimension moves by some steps either way.

    (f(z + s u) - f(z - s u)) / 2 of states z from their prior, u the unit of the dimension, s the
    step; f is log2(1 + 1e4 rho), or the mean where there is no library size.

    Parameters
    ----------
    model
        In evaluation.
    dimension
        Which.
    steps
        s, signed; all of them from the same states.
    n_particles
        States.
    batches
        That they are drawn from.
    generator
        Source of the draws.
    """
    n_genes = model.likelihood.n_genes
    total, square = np.zeros((2, len(steps), n_genes))
    block = max(1, _ELEMENTS // n_genes)
    for start in range(0, n_particles, block):
        n = min(block, n_particles - start)
        state = model.encoder.draw_prior(1, n, generator)
        covariates = batches.draw(n, generator)
        for i, step in enumerate(steps):
            along = torch.zeros_like(state[0, 0])
            along[dimension] = step
            up, down = (
                model.likelihood.expectation(model.decoder(state + by * along, covariates)).double()
                for by in (1, -1)
            )
            if model.likelihood.has_library_size:
                up, down = torch.log2(1 + up), torch.log2(1 + down)
            change = ((up - down) / 2).squeeze(1).cpu().numpy()
            total[i] += change.sum(0)
            square[i] += np.square(change).sum(0)
    mean = total / n_particles
    sd = np.sqrt(np.maximum(square / n_particles - mean**2, 0) * n_particles / (n_particles - 1))
    return [Loadings(m, s / np.sqrt(n_particles), s) for m, s in zip(mean, sd, strict=True)]


def movements(
    model: PerturbationVAE,
    columns: Tensor,
    dimensions: Sequence[int],
    moves: np.ndarray,
    *,
    n_draws: int,
    generator: torch.Generator,
) -> np.ndarray:
    """Return how far each draw moves dimensions that are moved by 1 on average, `draw dimension`.

    sum_t m_t s_rt / sum_t m_t^2 of draws s_r of mask * embedding, m their mean, over the
    perturbations t that move the dimension. Drawn twice alike: draws are never held together.

    Parameters
    ----------
    model
        In evaluation.
    columns
        Columns of dosage.
    dimensions
        Which.
    moves
        `column dimension`: which columns move them.
    n_draws
        How many.
    generator
        Source of the draws.
    """
    block = max(1, _ELEMENTS // (len(columns) * model.mechanism.n_context))
    sizes = [min(block, n_draws - start) for start in range(0, n_draws, block)]
    start, which = generator.get_state(), list(dimensions)
    moving = torch.from_numpy(moves).to(generator.device)

    def drawn() -> Iterator[Tensor]:
        generator.set_state(start)
        for n in sizes:
            yield draw_shifts(model, columns, n, generator).value[..., which].double()

    mean = torch.zeros(moving.shape, dtype=torch.float64, device=moving.device)
    for shifts in drawn():
        mean += shifts.sum(0) / n_draws
    mean *= moving
    parts = [torch.einsum("rtl,tl->rl", shifts, mean) for shifts in drawn()]
    moved: np.ndarray = (torch.cat(parts) / mean.square().sum(0)).cpu().numpy()
    return moved


@torch.no_grad()
def program_of(
    model: PerturbationVAE, shifts: Tensor, dimension: int, *, sign: float, covariates: np.ndarray
) -> np.ndarray:
    """Return what moving along a latent dimension does to each gene, `gene`.

    The difference of log2(1 + 1e4 rho), or of the mean where there is no library size, between
    states half a unit to either side of the mean of some shifts.

    Parameters
    ----------
    model
        In evaluation.
    shifts
        `perturbation latent`.
    dimension
        Which.
    sign
        Direction, 1 or -1.
    covariates
        `covariate`: of the batches, in what parts.
    """
    weight = model.decoder.first.weights[0]
    state = shifts.to(weight).mean(0)
    ends = state.repeat(2, 1)
    ends[:, dimension] += sign * state.new_tensor([-0.5, 0.5])
    batches = torch.from_numpy(covariates).to(state).expand(2, -1)
    expected = model.likelihood.expectation(model.decoder(ends, batches)).double()
    if model.likelihood.has_library_size:
        expected = torch.log2(1 + expected)
    return (expected[1] - expected[0]).cpu().numpy()
