"""Counts of cells under a condition, drawn from a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.loader import Loader, encode, on_device
from samsvae.inference.latent import as_it_acts, draw_shifts, of_batch
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Dosage

Cells: TypeAlias = sp.csr_matrix | np.ndarray
"""`cell gene`."""

_CELLS = 1024


@torch.no_grad()
def new_cells(
    model: PerturbationVAE,
    received: sp.csr_matrix,
    library_size: np.ndarray,
    covariates: np.ndarray,
    generator: torch.Generator,
    *,
    panel: bool,
) -> Cells:
    """Draw the counts of new cells, each with its own basal state, mask and embedding.

    Parameters
    ----------
    model
        Trained.
    received
        `1 perturbation`: what they receive.
    library_size
        `cell`, counts.
    covariates
        `cell covariate`.
    generator
        Source of the draws.
    panel
        Library sizes count these genes alone.
    """
    dosage = on_device(encode(received, max(1, received.nnz)), generator.device)
    blocks = []
    for start in range(0, len(library_size), _CELLS):
        rows = slice(start, start + _CELLS)
        size = torch.from_numpy(library_size[rows].astype(np.float32)).to(generator.device)
        n = len(size)
        # Every new cell is a particle of one cell.
        shifts = draw_shifts(model, dosage.perturbations, n, generator)
        basal = model.encoder.draw_prior(1, n, generator)
        context = model.mechanism.context(dosage, shifts)
        batches = torch.from_numpy(covariates[rows].astype(np.float32)).to(generator.device)
        hidden = model.decoded(basal, context, batches.unsqueeze(1)).squeeze(1)
        blocks.append(model.likelihood.draw(hidden, size, generator, panel=panel).counts)
    return _stored(model, blocks)


@torch.no_grad()
def given_cells(
    model: PerturbationVAE, received: sp.csr_matrix, loader: Loader, generator: torch.Generator
) -> Cells:
    """Draw what given cells would have shown under a condition.

    Their basal states come from the posterior given what they did receive and show; one draw of
    the globals serves all cells and both conditions.
    """
    device = generator.device
    everyone = torch.arange(received.shape[1], device=device)
    shifts = draw_shifts(model, everyone, 1, generator)
    one = on_device(encode(received, max(1, received.nnz)), device)
    blocks = []
    for batch in loader.in_order(_CELLS):
        n = len(batch.counts)
        own = of_batch(shifts, everyone, batch.dosage)
        dosage = _drawn(as_it_acts(model, batch, own, generator), generator)
        context = model.mechanism.context(dosage, own)
        basal = model.encoder.draw(batch, context, model.encoder.noise(n, 1, generator)).value
        target = Dosage(one.perturbations, one.position.expand(n, -1), one.dose.expand(n, -1))
        context = model.mechanism.context(target, of_batch(shifts, everyone, target))
        hidden = model.decoded(basal, context, batch.covariates).squeeze(0)
        size = batch.library_size
        blocks.append(model.likelihood.draw(hidden, size, generator, panel=False).counts)
    return _stored(model, blocks)


@torch.no_grad()
def replicated_cells(
    model: PerturbationVAE, loader: Loader, generator: torch.Generator
) -> Iterator[tuple[slice, Cells]]:
    """Draw new cells in the place of given ones: the same but for their basal states and counts.

    What they received, their library sizes and batches stay; one draw of the globals serves all.
    They are yielded some at a time, in order.
    """
    present = loader.present
    shifts = draw_shifts(model, present, 1, generator)
    start = 0
    for batch in loader.in_order(_CELLS):
        dosage = batch.dosage
        responders = model.mechanism.responders
        if responders is not None:
            acting = responders.probability()[responders.reagent(dosage)]
            dosage = _drawn(dosage._replace(acting=acting), generator)
        context = model.mechanism.context(dosage, of_batch(shifts, present, dosage))
        basal = model.encoder.draw_prior(len(batch.counts), 1, generator)
        hidden = model.decoded(basal, context, batch.covariates).squeeze(0)
        size = batch.library_size
        drawn = model.likelihood.draw(hidden, size, generator, panel=False).counts
        yield slice(start, start := start + len(drawn)), _stored(model, [drawn])


def _drawn(dosage: Dosage, generator: torch.Generator) -> Dosage:
    """Draw in which cells what they received acts, where that is not sure."""
    if dosage.acting is None:
        return dosage
    return dosage._replace(acting=torch.bernoulli(dosage.acting, generator=generator))


def _stored(model: PerturbationVAE, blocks: list[Tensor]) -> Cells:
    """Return drawn data: counts as a sparse matrix of integers, real values as they are."""
    arrays = [block.cpu().numpy() for block in blocks]
    if not model.likelihood.counts:
        return np.concatenate(arrays)
    return sp.vstack([sp.csr_matrix(array.astype(np.int32)) for array in arrays], format="csr")
