"""Latent space: where cells lie, where perturbations shift them, what its dimensions do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samsvae.data.fold_changes import typical_gene
from samsvae.data.loader import Loader
from samsvae.data.names import NameRegistry
from samsvae.errors import InputError
from samsvae.model.likelihood import Likelihood
from samsvae.model.mechanism import of_batch
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Context, Shifts

_CELLS = 1024
_ELEMENTS = 2**21
"""Largest number of (particle, gene) or (draw, column, latent) elements held at once."""


class Batches(NamedTuple):
    """Batches that cells are drawn from; empty where there are no batches."""

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

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw cells, and a state of each: `draw 1 latent`; and `draw 1 covariate`."""
        device = self.loc.device
        cell = torch.randint(len(self.loc), (n, 1), generator=generator, device=device)
        noise = torch.randn((n, 1, self.loc.shape[1]), generator=generator, device=device)
        state = self.loc[cell] + self.scale[cell] * noise
        return state, self.covariates[cell]

    def in_context(self, registry: NameRegistry, is_of_context: np.ndarray) -> BasalPosterior:
        """Return the cells of a context, of these batches (`batch`, bool)."""
        n = sum(map(len, registry.batch_levels[: registry.context_columns]))
        wanted = torch.from_numpy(registry.design[is_of_context][0, :n]).to(self.covariates)
        own = (self.covariates[:, :n] == wanted).all(1)
        if not bool(own.any()):
            raise InputError("no control cell is of this context: give basal='prior'")
        return BasalPosterior(*(values[own] for values in self))


@torch.no_grad()
def draw_shifts(
    model: PerturbationVAE, columns: Tensor, n_particles: int, generator: torch.Generator
) -> Shifts:
    """Draw the shifts of some columns of dosage, in their order."""
    noise = model.mechanism.noise(columns, n_particles, generator)
    return model.mechanism.draw(columns, noise)


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


class Loadings(NamedTuple):
    """What moving along a latent dimension does to each gene, over basal states, `gene` each."""

    mean: np.ndarray
    mc_se: np.ndarray
    """Monte Carlo standard error of the mean."""
    sd: np.ndarray
    """Standard deviation over basal states."""


@torch.no_grad()
def loadings(
    model: PerturbationVAE,
    dimension: int,
    *,
    shift: float,
    multiples: Sequence[float],
    n_particles: int,
    batches: Batches,
    generator: torch.Generator,
) -> list[Loadings]:
    """Return how expected expression changes with a dimension, per unit, for multiples of a shift.

    The log2 fold change of E f(z + c s u) against E f(z), over |s|, relative to the typical gene; s
    the shift, c one of the multiples, u the unit vector of the dimension, z `n_particles` states
    from their prior, the same for all multiples. Without a library size, the difference. Standard
    deviations are of each state's influence on that. Where cells lie is between z and z + s u: the
    decoder has learned nothing of the other side.
    """
    sums = np.zeros((len(multiples), 5, model.likelihood.n_genes))
    for state, covariates in _basal_states(model, n_particles, batches, generator):
        rest = _expected(model, state, covariates).squeeze(1).cpu().numpy()
        for i, multiple in enumerate(multiples):
            there = state.clone()
            there[..., dimension] += multiple * shift
            moved = _expected(model, there, covariates).squeeze(1).cpu().numpy()
            products = moved, rest, moved * moved, rest * rest, moved * rest
            sums[i] += [product.sum(0) for product in products]
    size = abs(shift)
    return [_loadings_of(own / n_particles, n_particles, size, model.likelihood) for own in sums]


def _basal_states(
    model: PerturbationVAE, n_particles: int, batches: Batches, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw states from their prior, `particle 1 latent`, and their batches, in blocks."""
    block = max(1, _ELEMENTS // model.likelihood.n_genes)
    for start in range(0, n_particles, block):
        n = min(block, n_particles - start)
        yield model.encoder.draw_prior(1, n, generator), batches.draw(n, generator)


@torch.no_grad()
def sampling_sd(
    model: PerturbationVAE,
    library_size: float,
    *,
    n_particles: int,
    batches: Batches,
    generator: torch.Generator,
) -> np.ndarray:
    """Return the sampling error of each gene in a single cell of a library size, `gene`.

    Of its log2 expression, by the delta method, sd(x) / (E x ln 2): for negative binomial counts
    (1 / mu + 1 / theta)^1/2 / ln 2, mu the expected counts. Without a library size, sd(x). Means
    and variances are averages over basal states from their prior.
    """
    sums = np.zeros((2, model.likelihood.n_genes))
    for state, covariates in _basal_states(model, n_particles, batches, generator):
        hidden = model.decoder(state, covariates)
        moments = model.likelihood.moments(hidden, hidden.new_tensor(library_size))
        sums += [values.double().flatten(0, -2).sum(0).cpu().numpy() for values in moments]
    mean, variance = sums / n_particles
    sd: np.ndarray = np.sqrt(variance)
    return sd / (mean * np.log(2)) if model.likelihood.has_library_size else sd


def _loadings_of(means: np.ndarray, n: int, size: float, likelihood: Likelihood) -> Loadings:
    """Return loadings from the means of moved and other expression, their squares, and product."""
    moved, rest, moved_moved, rest_rest, product = means
    if likelihood.has_library_size:
        loading = np.log2(moved / rest) / size
        loading -= typical_gene(loading[None]).shift
        slope_moved, slope_rest = (1 / (size * np.log(2) * mean) for mean in (moved, rest))
    else:
        loading, slope_moved, slope_rest = (moved - rest) / size, 1 / size, 1 / size
    variance = (
        slope_moved**2 * (moved_moved - moved**2)
        + slope_rest**2 * (rest_rest - rest**2)
        - 2 * slope_moved * slope_rest * (product - moved * rest)
    )
    sd = np.sqrt(np.maximum(variance, 0) * n / (n - 1))
    return Loadings(loading, sd / np.sqrt(n), sd)


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

    sum_t m_t s_rt / sum_t m_t^2 of draws s_r of mask * embedding (drawn twice to save memory), m
    their mean, over the columns t that move the dimension (`moves`, `column dimension`).
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


def _expected(model: PerturbationVAE, state: Tensor, covariates: Tensor) -> Tensor:
    """Return 1e4 rho of states, or the mean without a library size."""
    return model.likelihood.expectation(model.decoder(state, covariates)).double()
