"""The closed-form inclusion update: the masks given the data, once the networks are fixed.

Gradients do not take the posterior of a mask all the way: where a probability is small its gradient
is small too, and an entry that was closed while axes still moved is hardly opened again. So when
training has ended, all masks are set to their posterior at once, in closed form, from the gradient
of the training cells' ELBO with respect to their shifts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.spike_slab import inclusion, logit
from samsvae.types import Shifts

_CELLS = 512
"""Cells at once."""
_PARTICLES = 8
"""Draws of the basal states. Their noise is part of the standard error, so fewer are only less
powerful."""
_MIN_INFORMATION = 1e-6
"""Minimum Fisher information of a cell about its state, where the encoder gives none."""


class ShiftScores(NamedTuple):
    """Estimates of the shifts from the training cells, each given the others."""

    z: Tensor
    """`column latent`: the estimate in units of its standard error."""
    n_cells: Tensor
    """`column`: effective number of cells, a cell of dose d counting as d^2."""


def update_inclusion(model: PerturbationVAE, train: Loader) -> None:
    """Set all masks (and a prior that is learned) to their posterior, networks unchanged."""
    z, n_cells = shift_scores(model, train)
    has_cells = n_cells > 0
    if not bool(has_cells.any()):
        return
    posterior = inclusion(*(x[has_cells].cpu().numpy() for x in (z, n_cells)))
    log_bayes_factors = torch.zeros_like(z)
    of_data = torch.from_numpy(posterior.log_odds - logit(posterior.share))
    log_bayes_factors[has_cells] = of_data.to(z)
    additive = model.mechanism.additive
    assert additive is not None
    additive.mask.update(log_bayes_factors.to(additive.mask.logit()), has_cells)


def shift_scores(model: PerturbationVAE, train: Loader) -> ShiftScores:
    """Return how far from 0 each shift is, in standard errors, by the training cells.

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
    for batch in train.in_order(_CELLS):
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
    z = (information * shift + score) / (n_cells.unsqueeze(1) * variance).sqrt()
    return ShiftScores(z, n_cells)
