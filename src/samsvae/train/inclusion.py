"""Settling: the masks that the evidence gives once the networks are fixed.

Gradients leave the posterior of a mask on its way: where a probability is small its gradient is,
too, and an entry that was closed while axes still moved is hardly opened again. So when training
has ended, all masks are given their posterior at once, in closed form, from how the ELBO of the
training cells answers to their shifts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.spike_slab import inclusion, logit
from samsvae.types import Shifts

_CELLS = 512
"""At once."""
_PARTICLES = 8
"""Of the basal states. Their noise is part of the standard error, so that fewer only say less."""
_LEAST = 1e-6
"""What a cell tells at least of its state, where the encoder says that it tells nothing."""


class ShiftScores(NamedTuple):
    """What the training cells say of each shift, given the others."""

    z: Tensor
    """`perturbation latent`: its estimate in units of its standard error."""
    n_cells: Tensor
    """`perturbation`: cells behind it, a cell of dose d counting as d^2."""


def settle(model: PerturbationVAE, train: Loader) -> None:
    """Give all masks (and a prior that is learned) what the evidence says, networks unchanged."""
    z, n_cells = shift_scores(model, train)
    seen = n_cells > 0
    if not bool(seen.any()):
        return
    found = inclusion(*(x[seen].cpu().numpy() for x in (z, n_cells)))
    evidence = torch.zeros_like(z)
    evidence[seen] = torch.from_numpy(found.log_odds - logit(found.share)).to(z)
    mask = _additive(model).mask
    mask.update(evidence.to(mask.logit()), seen)


def shift_scores(model: PerturbationVAE, train: Loader) -> ShiftScores:
    """Return how far from 0 the training cells say that each shift is.

    With g_i the gradient of a cell's ELBO to its displacement, less its mean over all cells (which
    is the origin's), v_i the variance of its basal state's posterior (it tells of its displacement
    with precision 1 - v_i), and s_t the shift of the most probable mask, a Newton step from s leads
    to the estimate, and the spread of the gradients gives its standard error, which so holds
    whether or not the model does:

    s_tl + S_tl / P_tl,    S_tl = sum_i d_it g_il,    P_tl = sum_i d_it^2 (1 - v_il),
    z_tl = (P_tl s_tl + S_tl) / sqrt(sum_i d_it^2 mean_j g_jl^2)

    References
    ----------
    White: Maximum likelihood estimation of misspecified models, Econometrica 1982.
    """
    mechanism = _additive(model)
    shift = torch.mul(*mechanism.most_probable())
    score, told = (torch.zeros_like(shift, dtype=torch.float64) for _ in range(2))
    n_cells, doses = score.new_zeros(2, len(shift)).unbind()
    total, square = score.new_zeros(2, shift.shape[1]).unbind()
    generator = torch.Generator(train.device).manual_seed(0)
    for batch in train.in_order(_CELLS):
        dosage = batch.dosage
        given = Shifts(shift[None, dosage.perturbations], {})
        noise = model.encoder.noise(len(batch.counts), _PARTICLES, generator)
        if mechanism.responders is not None:  # only where it acts does a cell tell of a shift
            with torch.no_grad():
                dosage = dosage._replace(acting=model.responding(batch, given, noise))
        context = mechanism.context(dosage, given).detach().requires_grad_()
        likelihood, basal = model.given(context, batch, noise, closed_form=True)
        (gradient,) = torch.autograd.grad((likelihood + basal).mean(0).sum(), context)
        with torch.no_grad():
            variance = model.encoder.posterior(batch, context).scale.square()
            dose = mechanism.dose(dosage).double().unsqueeze(-1)
        g = gradient[0].double()
        known = (1 - variance).flatten(0, -2).clamp(min=_LEAST).double()
        which = dosage.perturbations[dosage.position].flatten()
        score.index_add_(0, which, (dose * g.unsqueeze(1)).flatten(0, 1))
        told.index_add_(0, which, (dose.square() * known.unsqueeze(1)).flatten(0, 1))
        n_cells.index_add_(0, which, dose.square().flatten())
        doses.index_add_(0, which, dose.flatten())
        total += g.sum(0)
        square += g.square().sum(0)
    mean = total / len(train.screen)
    score -= doses.unsqueeze(1) * mean
    spread = (square / len(train.screen) - mean.square()).clamp(min=torch.finfo(total.dtype).tiny)
    return ShiftScores((told * shift + score) / (n_cells.unsqueeze(1) * spread).sqrt(), n_cells)


def _additive(model: PerturbationVAE) -> AdditiveShift:
    assert isinstance(model.mechanism, AdditiveShift)
    return model.mechanism
