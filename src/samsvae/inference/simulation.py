"""Counts of cells under a condition, drawn from a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.loader import Loader, encode, on_device
from samsvae.inference.latent import draw_shifts
from samsvae.model.mechanism import of_batch
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Batch, Dosage

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

    All receive the same (`1 perturbation`); with `panel` library sizes count these genes alone.
    """
    dosage = on_device(encode(received, max(1, received.nnz)), generator.device)
    blocks = []
    for start in range(0, len(library_size), _CELLS):
        rows = slice(start, start + _CELLS)
        size = torch.from_numpy(library_size[rows].astype(np.float32)).to(generator.device)
        n = len(size)
        # Every new cell is a particle of one cell.
        shifts = draw_shifts(model, dosage.columns, n, generator)
        basal = model.encoder.draw_prior(1, n, generator)
        batches = torch.from_numpy(covariates[rows].astype(np.float32)).to(generator.device)
        batch = Batch.without_data(dosage, batches.unsqueeze(1))
        hidden = model.hidden(batch, shifts, basal).squeeze(1)
        blocks.append(model.likelihood.draw(hidden, size, generator, panel=panel).counts)
    return _stored(model, blocks)


@torch.no_grad()
def given_cells(
    model: PerturbationVAE, received: sp.csr_matrix, loader: Loader, generator: torch.Generator
) -> Cells:
    """Draw what given cells would have shown under a condition, at their own basal states."""
    device = generator.device
    columns = torch.arange(received.shape[1], device=device)
    shifts = draw_shifts(model, columns, 1, generator)
    one = on_device(encode(received, max(1, received.nnz)), device)
    blocks = []
    for batch in loader.in_order(_CELLS):
        n = len(batch.counts)
        own = of_batch(shifts, columns, batch.dosage)
        batch = _drawn(model.with_responses(batch, own, generator), generator)
        context = model.mechanism.context(batch, own)
        basal = model.encoder.draw(batch, context, model.encoder.noise(n, 1, generator)).value
        target = Dosage(one.columns, one.position.expand(n, -1), one.dose.expand(n, -1))
        of_target = Batch.without_data(target, batch.covariates)
        hidden = model.hidden(of_target, of_batch(shifts, columns, target), basal).squeeze(0)
        size = batch.library_size
        blocks.append(model.likelihood.draw(hidden, size, generator, panel=False).counts)
    return _stored(model, blocks)


@torch.no_grad()
def replicated_cells(
    model: PerturbationVAE, loader: Loader, generator: torch.Generator
) -> Iterator[tuple[slice, Cells]]:
    """Yield replicates of given cells, block by block in order: new basal states and counts."""
    present = loader.present
    shifts = draw_shifts(model, present, 1, generator)
    start = 0
    for batch in loader.in_order(_CELLS):
        batch = _drawn(model.mechanism.with_expected_responses(batch), generator)
        basal = model.encoder.draw_prior(len(batch.counts), 1, generator)
        hidden = model.hidden(batch, of_batch(shifts, present, batch.dosage), basal).squeeze(0)
        size = batch.library_size
        drawn = model.likelihood.draw(hidden, size, generator, panel=False).counts
        yield slice(start, start := start + len(drawn)), _stored(model, [drawn])


def _drawn(batch: Batch, generator: torch.Generator) -> Batch:
    """Draw whether what cells received acts in them, where that is uncertain."""
    dosage = batch.dosage
    if dosage.acting is None:
        return batch
    acting = torch.bernoulli(dosage.acting, generator=generator)
    return batch._replace(dosage=dosage._replace(acting=acting))


def _stored(model: PerturbationVAE, blocks: list[Tensor]) -> Cells:
    """Return drawn data: counts as a sparse matrix of integers, real values as they are."""
    arrays = [block.cpu().numpy() for block in blocks]
    if not model.likelihood.counts:
        return np.concatenate(arrays)
    return sp.vstack([sp.csr_matrix(array.astype(np.int32)) for array in arrays], format="csr")
