"""Masks when the first phase of training ends: alignment.

Alignment is the rotation of latent space to the axes in which shifts are sparsest. A diagonal
posterior and a sparse prior depend on the axes of latent space, nothing else does: the axes can be
chosen freely. Gradient descent from random axes does not find those in which perturbations shift
few dimensions; so a model is first trained with all masks fixed at one, then rotated, and its masks
start from the Bayes factor of each entry of the rotated embeddings.

References
----------
Lachapelle et al.: Disentanglement via mechanism sparsity regularization, CLeaR 2022.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.rotation import sparsest
from samsvae.ops.spike_slab import Matrix, expit

_ROUNDS = 3
"""Rounds of translating the origin and rotating about it."""
_MIN_AGREEING = 8
"""Perturbations from which on the origin may be where most of them are."""
_MIN_GAIN = 0.5
"""Nats by which an origin of its own has to be more likely than control's."""
_LEAST_SPREAD = 5e-3
"""Variance about an origin, in prior units, below which it does not matter."""
_EM_STEPS = 100
_MAX_COLUMNS = 1000
"""Largest number of columns of dosage that determine the axes, those with the surest shifts: more
take longer without changing the axes."""
_CELLS = 1000
"""Training cells from which the Fisher information of a cell about its state is estimated."""
_LOGIT_BOUND = 8.0
"""Largest absolute log odds that a mask starts from: gradients can still change it."""


def can_align(model: PerturbationVAE) -> bool:
    """Whether a model infers masks, so that its axes have a meaning."""
    additive = model.mechanism.additive
    return additive is not None and additive.mask.variable is not None


@torch.no_grad()
def align(model: PerturbationVAE, train: Loader, *, seed: int = 0) -> None:
    """Rotate a model that was trained with masks fixed at one, and start its masks.

    While masks are fixed, an offset that all perturbations share costs little; a sparse mask would
    include it for each. So the origin is translated, too, along axes in which most of many
    perturbations share one. Deviations and interactions are rotated with the others, but
    choose neither the axes nor the origin.
    """
    additive = model.mechanism.additive
    assert additive is not None
    n_cells = _responding_cells(model, train)
    has_cells = n_cells > 0
    shared = has_cells if additive.kinds is None else has_cells & (additive.kinds == 0)
    before = additive.embedding.bayes_factors(_information(model, train, n_cells))
    mean, scale = ((x[shared] / before.unit).double().cpu().numpy() for x in before[:2])
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
    for _ in range(_ROUNDS):  # the axes depend on the origin, and the origin on the axes
        offset = matrix @ [shared_offset(column) for column in (mean @ matrix).T]
        matrix = sparsest(mean[rows] - offset, scale[rows], start=matrix).matrix
    return offset, matrix


def shared_offset(mean: Matrix) -> float:
    """Return the origin of an axis, from the estimates of the perturbations, `column`.

    Control's shift is 0 by definition; it is one more entry at 0. With most entries about an origin
    c and the others anywhere, x ~ (1 - a) N(c, u) + a N(c, u + w) (a, u and w learned for each c),
    the origin is the c of largest likelihood, or 0 if that is as likely. It is 0 where there are
    fewer than eight perturbations, or no more than half of them are about c. Whether they agree is
    a matter of their own spread, not of posterior variances, which converge slowly.
    """
    if len(mean) < _MIN_AGREEING:
        return 0.0
    x = np.append(mean, 0.0)
    found, at_control = _about(x, float(np.median(mean)), free=True), _about(x, 0.0, free=False)
    agree = (found.is_about[:-1] > 0.5).mean() > 0.5
    return found.origin if agree and found.fit > at_control.fit + _MIN_GAIN else 0.0


class _About(NamedTuple):
    """Entries about an origin, and others."""

    origin: float
    fit: float
    """Log likelihood."""
    is_about: Matrix
    """`entry`: the probability."""


def _about(x: Matrix, origin: float, *, free: bool) -> _About:
    """Return the most likely mixture, by expectation maximisation; if free, with its origin."""
    narrow = max(float(np.median(np.abs(x - origin))) ** 2, _LEAST_SPREAD)
    wide, share = max(float(np.square(x - origin).mean()), 4 * narrow), 0.3
    for _ in range(_EM_STEPS):
        square, total = np.square(x - origin), narrow + wide
        about = np.log1p(-share) - (np.log(narrow) + square / narrow) / 2
        apart = np.log(share) - (np.log(total) + square / total) / 2
        fit = float(np.logaddexp(about, apart).sum())
        is_about = expit(about - apart)
        if free:
            weight = is_about / narrow + (1 - is_about) / total
            origin = float((weight * x).sum() / weight.sum())
            square = np.square(x - origin)
        spread = ((is_about * square).sum() + _LEAST_SPREAD) / (is_about.sum() + 0.5)
        narrow = max(float(spread), _LEAST_SPREAD)
        others = (1 - is_about).sum()
        wide = max(float(((1 - is_about) * (square - narrow)).sum() / max(others, 1e-9)), 1.0)
        share = float((others + 0.5) / (len(x) + 1))
    return _About(origin, fit, is_about)


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
    """Return the Fisher information about each entry of an embedding, `column latent`.

    A cell whose state has prior variance 1 and posterior variance v tells as much as 1 - v states.
    """
    rows = np.random.default_rng(0).permutation(len(train.screen))[:_CELLS]
    batch = train.batch(np.sort(rows))
    mechanism, columns = model.mechanism, batch.dosage.columns
    noise = mechanism.noise(columns, 1, torch.Generator(train.device).manual_seed(0))
    variance = model.posterior(batch, mechanism.draw(columns, noise)).scale.square()
    per_cell = (1 - variance.flatten(0, -2).mean(0)).clamp(min=0)
    return n_cells[:, None] * per_cell
