"""Alignment: the rotation of latent space to the axes in which shifts are sparsest.

A diagonal posterior and a sparse prior see the axes of latent space, nothing else does: they can be
chosen for free. Gradient descent from random axes does not find those in which perturbations shift
few dimensions; so a model is first trained with all masks open, then rotated, and its masks start
from the evidence that each entry of the rotated embeddings has.

References
----------
Lachapelle et al.: Disentanglement via mechanism sparsity regularization, CLeaR 2022.
"""

from __future__ import annotations

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.rotation import sparsest
from samsvae.ops.spike_slab import Matrix

_ROUNDS = 3
"""Of moving the origin and rotating about it."""
_PERTURBATIONS = 1000
"""Most of them that tell the axes, those whose shifts are surest: more take longer, and tell no
more."""
_CELLS = 1000
"""Training cells that tell how much a cell says of its state."""
_FARTHEST = 8.0
"""Largest log odds that a mask starts from: none from which no gradient would bring it back."""


def can_align(model: PerturbationVAE) -> bool:
    """Whether a model has masks that are inferred, so that its axes mean something."""
    mechanism = model.mechanism
    return isinstance(mechanism, AdditiveShift) and mechanism.mask.variable is not None


@torch.no_grad()
def align(model: PerturbationVAE, train: Loader, *, seed: int = 0) -> None:
    """Rotate a model that was trained with open masks, and start its masks from the evidence.

    Its origin is moved, too: to where most perturbations lie along each axis (the median). With
    open masks control may lie beside all that does nothing, since an offset that all perturbations
    share costs nothing; a sparse mask would have to say it of each.

    Parameters
    ----------
    model
        With `mechanism.dense`, which ends here.
    train
        Its training cells.
    seed
        Of the rotation's starts.
    """
    mechanism = model.mechanism
    assert isinstance(mechanism, AdditiveShift)
    n_cells = _responding_cells(mechanism, train)
    seen = n_cells > 0
    before = mechanism.embedding.evidence(_information(model, train, n_cells))
    mean, scale = ((x[seen] / before.unit).double().cpu().numpy() for x in before[:2])
    with threadpool_limits(1, user_api="blas"):  # matrices are small: threads would wait, no more
        offset, matrix = _sparsest_axes(mean, scale, seed)
    model.move(torch.from_numpy(offset).to(before.mean) * before.unit)
    model.rotate(torch.from_numpy(matrix).to(before.mean))
    after = mechanism.embedding.evidence(_information(model, train, n_cells))
    mechanism.mask.update(after.log_bayes_factor, seen, farthest=_FARTHEST)
    mechanism.dense = False


def _sparsest_axes(mean: Matrix, scale: Matrix, seed: int) -> tuple[Matrix, Matrix]:
    """Return the origin, `latent`, and the rotation about it."""
    offset = np.zeros(mean.shape[1])
    surest = np.argsort(-np.square(mean / scale).sum(1), kind="stable")[:_PERTURBATIONS]
    some = np.sort(surest)
    matrix = sparsest(mean[some], scale[some], seed=seed).matrix
    for _ in range(_ROUNDS):  # the axes depend on the origin, and the median on the axes
        offset = offset + matrix @ np.median((mean - offset) @ matrix, axis=0)
        matrix = sparsest(mean[some] - offset, scale[some], start=matrix).matrix
    return offset, matrix


def _responding_cells(mechanism: AdditiveShift, train: Loader) -> Tensor:
    """Return how many cells tell of each perturbation, `perturbation`: in how many it acts."""
    n_cells = torch.as_tensor(train.cells_per_column, device=train.device)
    responders = mechanism.responders
    if responders is None:
        return n_cells
    acting = torch.zeros(len(n_cells), device=train.device)
    for batch in train.in_order(_CELLS):
        dosage = batch.dosage
        share = responders.probability()[responders.reagent(dosage)] * (dosage.dose != 0)
        which = dosage.perturbations[dosage.position]
        acting.index_add_(0, which.flatten(), share.flatten())
    return acting


def _information(model: PerturbationVAE, train: Loader, n_cells: Tensor) -> Tensor:
    """Return what the cells tell of each entry of an embedding, `perturbation latent`.

    A cell whose state has prior variance 1 and posterior variance v tells of the state's mean as
    much as 1 - v observations of the state itself would.
    """
    rows = np.random.default_rng(0).permutation(len(train.screen))[:_CELLS]
    batch = train.batch(np.sort(rows))
    mechanism = model.mechanism
    generator = torch.Generator(train.device).manual_seed(0)
    noise = mechanism.noise(batch.dosage.perturbations, 1, generator)
    context = mechanism.context(batch.dosage, mechanism.draw(batch.dosage.perturbations, noise))
    variance = model.encoder.posterior(batch, context).scale.square()
    told = (1 - variance.flatten(0, -2).mean(0)).clamp(min=0)
    return n_cells[:, None] * told
