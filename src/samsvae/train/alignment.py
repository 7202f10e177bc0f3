"""Alignment: the rotation of latent space to the axes in which shifts are sparsest.

A diagonal posterior and a sparse prior depend on the axes of latent space, nothing else does: the
axes can be chosen freely. Gradient descent from random axes does not find those in which
perturbations shift few dimensions; so a model is first trained with all masks fixed at one, then
rotated, and its masks start from the Bayes factor of each entry of the rotated embeddings.

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
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.rotation import sparsest
from samsvae.ops.spike_slab import Matrix

_ROUNDS = 3
"""Rounds of translating the origin and rotating about it."""
_MAX_COLUMNS = 1000
"""Largest number of columns of dosage that determine the axes, those with the surest shifts: more
take longer without changing the axes."""
_CELLS = 1000
"""Training cells from which the Fisher information of a cell about its state is estimated."""
_LOGIT_BOUND = 8.0
"""Largest absolute log odds that a mask starts from: gradients can still change it."""


def can_align(model: PerturbationVAE) -> bool:
    """Whether a model infers masks, so that its axes mean something."""
    additive = model.mechanism.additive
    return additive is not None and additive.mask.variable is not None


@torch.no_grad()
def align(model: PerturbationVAE, train: Loader, *, seed: int = 0) -> None:
    """Rotate a model that was trained with masks fixed at one, and start its masks.

    The origin is translated, too: to where most perturbations lie along each axis (the median).
    While masks are fixed, control may lie away from all perturbations that do nothing, since an
    offset that all perturbations share costs nothing; a sparse mask would have to include it for
    each of them.

    Parameters
    ----------
    model
        With masks fixed at one, which ends here.
    train
        Its training cells.
    seed
        Of the rotation's starts.
    """
    additive = model.mechanism.additive
    assert additive is not None
    n_cells = _responding_cells(model, train)
    has_cells = n_cells > 0
    before = additive.embedding.bayes_factors(_information(model, train, n_cells))
    mean, scale = ((x[has_cells] / before.unit).double().cpu().numpy() for x in before[:2])
    with threadpool_limits(1, user_api="blas"):  # matrices are small: more threads only wait
        offset, matrix = _sparsest_axes(mean, scale, seed)
    model.translate(torch.from_numpy(offset).to(before.mean) * before.unit)
    model.rotate(torch.from_numpy(matrix).to(before.mean))
    after = additive.embedding.bayes_factors(_information(model, train, n_cells))
    additive.mask.update(after.log_bayes_factor, has_cells, logit_bound=_LOGIT_BOUND)
    additive.masks_fixed = False


def _sparsest_axes(mean: Matrix, scale: Matrix, seed: int) -> tuple[Matrix, Matrix]:
    """Return the origin, `latent`, and the rotation about it."""
    offset = np.zeros(mean.shape[1])
    surest = np.argsort(-np.square(mean / scale).sum(1), kind="stable")[:_MAX_COLUMNS]
    rows = np.sort(surest)
    matrix = sparsest(mean[rows], scale[rows], seed=seed).matrix
    for _ in range(_ROUNDS):  # the axes depend on the origin, and the median on the axes
        offset = offset + matrix @ np.median((mean - offset) @ matrix, axis=0)
        matrix = sparsest(mean[rows] - offset, scale[rows], start=matrix).matrix
    return offset, matrix


def _responding_cells(model: PerturbationVAE, train: Loader) -> Tensor:
    """Return the expected number of cells in which each column of dosage acts, `column`."""
    n_cells = torch.as_tensor(train.cells_per_column, device=train.device)
    if not model.mechanism.cell_variables:  # every column acts in all of its cells
        return n_cells
    expected = torch.zeros(len(n_cells), device=train.device)
    for batch in train.in_order(_CELLS):
        dosage = model.mechanism.with_expected_responses(batch).dosage
        assert dosage.acting is not None
        share = dosage.acting * (dosage.dose != 0)
        which = dosage.columns[dosage.position]
        expected.index_add_(0, which.flatten(), share.flatten())
    return expected


def _information(model: PerturbationVAE, train: Loader, n_cells: Tensor) -> Tensor:
    """Return the Fisher information of the cells about each entry of an embedding, `column latent`.

    A cell whose state has prior variance 1 and posterior variance v carries as much information
    about the mean of the state as 1 - v observations of the state itself.
    """
    rows = np.random.default_rng(0).permutation(len(train.screen))[:_CELLS]
    batch = train.batch(np.sort(rows))
    mechanism, columns = model.mechanism, batch.dosage.columns
    noise = mechanism.noise(columns, 1, torch.Generator(train.device).manual_seed(0))
    variance = model.posterior(batch, mechanism.draw(columns, noise)).scale.square()
    per_cell = (1 - variance.flatten(0, -2).mean(0)).clamp(min=0)
    return n_cells[:, None] * per_cell
