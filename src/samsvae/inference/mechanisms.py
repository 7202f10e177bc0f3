"""Where perturbations move cells in latent space."""

from __future__ import annotations

from collections.abc import Sequence
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


def drawn_shifts(
    model: PerturbationVAE,
    perturbations: Tensor,
    dimensions: Sequence[int],
    n_draws: int,
    generator: torch.Generator,
) -> np.ndarray:
    """Return draws of mask * embedding along some dimensions, `draw perturbation dimension`."""
    block = max(1, _ELEMENTS // (len(perturbations) * model.mechanism.n_context))
    sizes = [min(block, n_draws - start) for start in range(0, n_draws, block)]
    drawn = (draw_shifts(model, perturbations, n, generator).value for n in sizes)
    return torch.cat([shifts[..., list(dimensions)] for shifts in drawn]).cpu().numpy()


def movement(shifts: np.ndarray) -> np.ndarray:
    """Return how far each draw moves a dimension whose perturbations move it by 1 on average.

    sum_t m_t s_rt / sum_t m_t^2 of draws s_r of the perturbations' shifts along it, m their mean.

    Parameters
    ----------
    shifts
        `draw perturbation`.

    Examples
    --------
    >>> movement(np.array([[1.0, -2.0], [3.0, -2.0], [2.0, -5.0]]))
    array([0.61538462, 0.92307692, 1.46153846])
    """
    shifts = shifts.astype(np.float64)
    mean = shifts.mean(0)
    moved: np.ndarray = shifts @ mean / (mean @ mean)
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
