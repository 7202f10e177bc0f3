"""Masks when the phases of training end: alignment, and the closed-form inclusion update.

Alignment is the rotation of latent space to the axes in which shifts are sparsest. A diagonal
posterior and a sparse prior depend on the axes of latent space, nothing else does: the axes can be
chosen freely. Gradient descent from random axes does not find those in which perturbations shift
few dimensions; so a model is first trained with all masks fixed at one, then rotated, and its masks
start from the Bayes factor of each entry of the rotated embeddings.

The closed-form inclusion update ends training. Gradients do not take the posterior of a mask all
the way: where a probability is small its gradient is small too, and an entry that was closed while
axes still moved is hardly opened again. So when training has ended, all masks are set to their
posterior at once, in closed form, from the gradient of the training cells' ELBO with respect to
their shifts.

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
from samsvae.model.embedding import Estimates
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.rotation import sparsest
from samsvae.ops.spike_slab import (
    Matrix,
    inclusion,
    log_bayes_factor,
    logit,
    most_likely_share,
)
from samsvae.types import Shifts

_ROUNDS = 3
"""Rounds of translating the origin and rotating about it."""
_MIN_AGREEING = 8
"""Perturbations from which on the origin may be where most of them are."""
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
    perturbations share one.
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
    for _ in range(_ROUNDS):  # the axes depend on the origin, and the origin on the axes
        variance = np.clip(1 / (scale**-2 @ np.square(matrix)), 1e-6, 1 - 1e-6)
        columns = zip((mean @ matrix).T, variance.T, strict=True)
        offset = matrix @ [shared_offset(*column) for column in columns]
        matrix = sparsest(mean[rows] - offset, scale[rows], start=matrix).matrix
    return offset, matrix


def shared_offset(mean: Matrix, variance: Matrix) -> float:
    """Return the origin of an axis: the median of the perturbations, or 0, where control is.

    Estimates and their posterior variances, `column`, in units of the prior. Control's shift is 0
    by definition: seen from another origin it is one entry that is not 0, as sure as the surest.
    The origin is the one of larger marginal likelihood (as in `samsvae.ops.rotation.sparsest`), and
    is never moved unless there are at least eight perturbations, most of which agree on it.
    """
    if len(mean) < _MIN_AGREEING:
        return 0.0
    x, v = np.append(mean, 0.0), np.append(variance, variance.min())
    narrow = v * (1 - v)
    wide = narrow + (1 - v) ** 2
    likelihood, is_at = [], []
    candidates = 0.0, float(np.median(mean))
    for origin in candidates:
        evidence = log_bayes_factor(x - origin, narrow, wide)
        share = most_likely_share(evidence)
        spike = -(np.log(narrow) + (x - origin) ** 2 / narrow) / 2
        log_odds = logit(share) + evidence
        likelihood.append(float((spike + np.log1p(-share) + np.logaddexp(0, log_odds)).sum()))
        is_at.append(log_odds[:-1] < 0)
    agree = is_at[1].mean() > 0.5
    return candidates[1] if agree and likelihood[1] > likelihood[0] else 0.0


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


_CELLS_AT_ONCE = 512
_PARTICLES = 8
"""Draws of the basal states. Their noise is part of the standard error, so fewer draws only cost
power."""
_MIN_INFORMATION = 1e-6
"""Minimum Fisher information of a cell about its state, where the encoder gives none."""


class ShiftScores(NamedTuple):
    """What the training cells say about each shift, given the others, `column latent` each."""

    shift: Tensor
    """s, at which the others are computed."""
    score: Tensor
    """S, the gradient of the ELBO of all cells."""
    information: Tensor
    """P."""
    noise: Tensor
    """Standard deviation of S."""
    n_cells: Tensor
    """`column`: effective number of cells, a cell of dose d counting as d^2."""

    @property
    def z(self) -> Tensor:
        """Estimates of the shifts in units of their standard errors."""
        return (self.information * self.shift + self.score) / self.noise

    def estimates(self, inflation: float, asked: Tensor) -> Estimates:
        """Return some estimates, given by how much their variances are larger than they seem."""
        value = torch.where(asked, self.shift + self.score / self.information, torch.nan)
        return Estimates(value.float(), (inflation * (self.noise / self.information) ** 2).float())


def update_inclusion(model: PerturbationVAE, train: Loader) -> None:
    """Set all masks (and a learned prior) to their closed-form posterior; networks stay.

    With them the embeddings of entries that were closed, which no gradient has moved: by a Newton
    step from 0, and another with the information that the first one shows (the secant).
    """
    scores = shift_scores(model, train)
    has_cells = scores.n_cells > 0
    if not bool(has_cells.any()):
        return
    z, n_cells = (x[has_cells].cpu().numpy() for x in (scores.z, scores.n_cells))
    posterior = inclusion(z, n_cells)
    log_bayes_factors = torch.zeros_like(scores.z)
    of_data = torch.from_numpy(posterior.log_odds - logit(posterior.share))
    log_bayes_factors[has_cells] = of_data.to(scores.z)
    additive = model.mechanism.additive
    assert additive is not None
    mask, embedding = additive.mask, additive.embedding
    before = additive.most_probable()[0]
    mask.update(log_bayes_factors.to(mask.logit()), has_cells)
    mask.evidence[has_cells] = torch.from_numpy(posterior.evidence).to(mask.evidence)
    after = (mask.probability() > 0.5).to(before)
    asked = (before * after == 0) & has_cells[:, None]
    embedding.update(before, mask.probability(), scores.estimates(posterior.error, asked))
    opened = asked & (after > 0)
    if bool(opened.any()):
        there = shift_scores(model, train)
        secant = (scores.score - there.score) / (there.shift - scores.shift)
        asked = opened & (secant > _MIN_INFORMATION)
        there = there._replace(information=torch.where(asked, secant, there.information))
        embedding.update(after, mask.probability(), there.estimates(posterior.error, asked))


def shift_scores(model: PerturbationVAE, train: Loader) -> ShiftScores:
    """Return how far from 0 each shift is by the training cells, and how sure that is.

    Let g_i be the gradient of a cell's ELBO with respect to its displacement, minus its mean over
    all cells (which is the gradient of the origin), v_i the posterior variance of its basal state
    (1 - v_i is its Fisher information about the displacement), and s_t the shift of the most
    probable mask. A Newton step from s leads to the estimate, and the variance of the gradients to
    its standard error, which is valid whether or not the model is right (a sandwich estimator):

    s_tl + S_tl / P_tl,    S_tl = sum_i d_it g_il,    P_tl = sum_i d_it^2 (1 - v_il),
    z_tl = (P_tl s_tl + S_tl) / sqrt(sum_i d_it^2 mean_j g_jl^2)

    References
    ----------
    White: Maximum likelihood estimation of misspecified models, Econometrica 1982.
    """
    mechanism, additive = model.mechanism, model.mechanism.additive
    assert additive is not None
    shift = torch.mul(*additive.most_probable())
    score, information = (torch.zeros_like(shift, dtype=torch.float64) for _ in range(2))
    n_cells, doses = score.new_zeros(2, len(shift)).unbind()
    total, square = score.new_zeros(2, shift.shape[1]).unbind()
    generator = torch.Generator(train.device).manual_seed(0)
    for batch in train.in_order(_CELLS_AT_ONCE):
        shifts = Shifts(shift[None, batch.dosage.columns], {})
        noise = model.encoder.noise(len(batch.counts), _PARTICLES, generator)
        with torch.no_grad():  # a cell carries information about a shift only where it acts
            batch = model.with_responses(batch, shifts, noise)
        dosage = batch.dosage
        context = mechanism.context(batch, shifts)
        assert isinstance(context, Tensor)
        context = context.detach().requires_grad_()
        likelihood, basal = model.cell_terms(context, batch, noise, closed_form=True)
        (gradient,) = torch.autograd.grad((likelihood + basal).mean(0).sum(), context)
        with torch.no_grad():
            variance = model.encoder.posterior(batch, context).scale.square()
            dose = additive.dose(dosage).double().unsqueeze(-1)
        g = gradient[0].double()
        per_cell = (1 - variance).flatten(0, -2).clamp(min=_MIN_INFORMATION).double()
        which = dosage.columns[dosage.position].flatten()
        score.index_add_(0, which, (dose * g.unsqueeze(1)).flatten(0, 1))
        information.index_add_(0, which, (dose.square() * per_cell.unsqueeze(1)).flatten(0, 1))
        n_cells.index_add_(0, which, dose.square().flatten())
        doses.index_add_(0, which, dose.flatten())
        total += g.sum(0)
        square += g.square().sum(0)
    mean = total / len(train.screen)
    score -= doses.unsqueeze(1) * mean
    variance = (square / len(train.screen) - mean.square()).clamp(min=torch.finfo(total.dtype).tiny)
    noise = (n_cells.unsqueeze(1) * variance).sqrt()
    return ShiftScores(shift.double(), score, information, noise, n_cells)
