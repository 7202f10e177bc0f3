"""Masks when training ends: the closed-form inclusion update.

Gradients do not take the posterior of a mask all
the way: where a probability is small its gradient is small too, and an entry that was closed while
axes still moved is hardly opened again. So when training has ended, all masks are set to their
posterior at once, in closed form, from the gradient of the training cells' ELBO with respect to
their shifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.model.embedding import Estimates
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.spike_slab import HeldOut, inclusion, logit
from samsvae.train.processes import Processes, SingleProcess
from samsvae.types import Shifts

_CELLS_AT_ONCE = 512
_PARTICLES = 8
"""Largest number of draws of the basal states. Their noise is part of the standard error, so fewer
draws only cost power."""
_PAIRS = 2**19
"""Largest number of (particle, cell) pairs that shifts are estimated from: as many as 1,000 steps
take."""
_MIN_INFORMATION = 1e-6
"""Minimum Fisher information of a cell about its state, where the encoder gives none."""


class ShiftScores(NamedTuple):
    """What some cells say about each shift, given the others, `column latent` each."""

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


def update_inclusion(
    model: PerturbationVAE,
    train: Loader,
    valid: Loader | None = None,
    processes: Processes | None = None,
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> None:
    """Set all masks (and a learned prior) to their closed-form posterior; networks stay.

    With them the embeddings of entries that were closed, which no gradient has moved: by a Newton
    step from 0, and another with the information that the first one shows (the secant). Kinds of
    columns of dosage come one after the other, each given those before it. Validation cells, if
    there are any, tell shifts from what training cells were overfitted to.
    """
    additive = model.mechanism.additive
    assert additive is not None
    kinds = additive.kinds
    for kind in range(1 if kinds is None else int(kinds.max()) + 1):
        is_kind = None if kinds is None else kinds == kind
        _update_kind(model, train, valid, processes, is_kind, progress)


def _update_kind(
    model: PerturbationVAE,
    train: Loader,
    valid: Loader | None,
    processes: Processes | None,
    is_kind: Tensor | None,
    progress: Callable[[Sequence[int]], Iterable[int]],
) -> None:
    """Update the columns of one kind (`column`, bool), or all; the others stay as they are."""
    scores = shift_scores(model, train, processes, progress=progress)
    has_cells = scores.n_cells > 0
    if is_kind is not None:
        has_cells &= is_kind
    if not bool(has_cells.any()):
        return
    held_out = None
    if valid is not None and len(valid.screen):
        of_valid = shift_scores(model, valid, processes)
        held_out = HeldOut(*(x[has_cells].cpu().numpy() for x in (of_valid.z, of_valid.n_cells)))
    z, n_cells = (x[has_cells].cpu().numpy() for x in (scores.z, scores.n_cells))
    posterior = inclusion(z, n_cells, held_out)
    log_bayes_factors = torch.zeros_like(scores.z)
    of_data = torch.from_numpy(posterior.log_odds - logit(posterior.share))
    log_bayes_factors[has_cells] = of_data.to(scores.z)
    additive = model.mechanism.additive
    assert additive is not None
    mask, embedding = additive.mask, additive.embedding
    before = additive.most_probable()[0]
    mask.update(log_bayes_factors.to(mask.logit()), has_cells, columns=is_kind)
    mask.evidence[has_cells] = torch.from_numpy(posterior.evidence).to(mask.evidence)
    after = (mask.probability() > 0.5).to(before)
    asked = (before * after == 0) & has_cells[:, None]
    embedding.update(before, mask.probability(), scores.estimates(posterior.error, asked))
    opened = asked & (after > 0)
    if bool(opened.any()):
        there = shift_scores(model, train, processes, progress=progress)
        secant = (scores.score - there.score) / (there.shift - scores.shift)
        asked = opened & (secant > _MIN_INFORMATION) & secant.isfinite()  # some may stay at 0
        surer = scores._replace(information=torch.where(asked, secant, scores.information))
        embedding.update(after, mask.probability(), surer.estimates(posterior.error, asked))


def shift_scores(
    model: PerturbationVAE,
    cells: Loader,
    processes: Processes | None = None,
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> ShiftScores:
    """Return how far from 0 each shift is by some cells, and how sure that is.

    Let g_i be the gradient of a cell's ELBO with respect to its displacement, minus that of the
    origin, v_i the posterior variance of its basal state (1 - v_i is its Fisher information about
    the displacement), and s_t the shift of the most probable mask. A Newton step from s leads to
    the estimate, and the variance of the gradients to its standard error, which is valid whether or
    not the model is right (a sandwich estimator):

    s_tl + S_tl / P_tl,    S_tl = sum_i d_it g_il,    P_tl = sum_i d_it^2 (1 - v_il),
    z_tl = (P_tl s_tl + S_tl) / sqrt(V_l sum_i d_it^2 + U_l (sum_i d_it)^2)

    with the variance V of gradients between cells. Where the model is right the gradient of the
    origin is the mean over all cells, and U is 0. Perturbations that the model misses displace that
    mean, from which control and what does nothing are then away, on the same side. So the origin
    of an entry is the value between the mean and control's that is nearest to the entry; with U,
    the variance of control's, for entries on its side.

    Where replicates are known, such as clones, their cells are not independent: the squared
    standard error is larger by the variance between them, see `_between_replicates`.

    Of N cells at most 524,288 are taken, at random, with 524,288 / N particles, at least one and at
    most eight. The standard error is that of this sample and these draws, so a smaller sample only
    misses more: a share f of the cells makes z smaller by sqrt(f), and in simulations one particle
    instead of eight by 19 to 25 %, four by 4 to 5 %. Each process takes some of the batches, each
    batch with noise of its own; `progress` gets the first cell of every batch.

    References
    ----------
    White: Maximum likelihood estimation of misspecified models, Econometrica 1982.
    """
    mechanism, additive = model.mechanism, model.mechanism.additive
    assert additive is not None
    processes, cells = processes or SingleProcess(), cells.sample(_PAIRS)
    n_particles = max(1, min(_PARTICLES, _PAIRS // len(cells.screen)))
    starts = range(0, len(cells.screen), _CELLS_AT_ONCE)[processes.part]
    shift = torch.mul(*additive.most_probable())
    score, information = (torch.zeros_like(shift, dtype=torch.float64) for _ in range(2))
    n_cells, doses = score.new_zeros(2, len(shift)).unbind()
    total, square, of_control = score.new_zeros(3, shift.shape[1]).unbind()
    n_control = score.new_zeros(())
    pairs = _ReplicatePairs.of(cells)
    by_pair, size = score.new_zeros(pairs.n, shift.shape[1]), score.new_zeros(pairs.n)
    generator = torch.Generator(cells.device).manual_seed(0)
    for start in progress(starts):
        rows = slice(start, start + _CELLS_AT_ONCE)
        batch = cells.batch(rows)
        shifts = Shifts(shift[None, batch.dosage.columns], {})
        generator.manual_seed(start)
        noise = model.encoder.noise(len(batch.counts), n_particles, generator)
        with torch.no_grad():  # a cell carries information about a shift only where it acts
            batch = model.with_responses(batch, shifts, noise)
        dosage = batch.dosage
        context = mechanism.context(batch, shifts)
        assert isinstance(context, Tensor)
        context = context.detach().requires_grad_()
        with without_gradients(model):
            likelihood, basal = model.cell_terms(context, batch, noise, closed_form=True)
            (gradient,) = torch.autograd.grad((likelihood + basal).mean(0).sum(), context)
        with torch.no_grad():
            variance = model.encoder.posterior(batch, context).scale.square()
            dose = additive.dose(dosage).double().unsqueeze(-1)
        g = gradient[0].double()
        per_cell = (1 - variance).flatten(0, -2).clamp(min=_MIN_INFORMATION).double()
        which = dosage.columns[dosage.position].flatten()
        own_score = (dose * g.unsqueeze(1)).flatten(0, 1)
        score.index_add_(0, which, own_score)
        if pairs.n:
            pair = pairs.of_slot[rows].flatten()
            by_pair.index_add_(0, pair, own_score)
            size.index_add_(0, pair, dose.square().flatten())
        information.index_add_(0, which, (dose.square() * per_cell.unsqueeze(1)).flatten(0, 1))
        n_cells.index_add_(0, which, dose.square().flatten())
        doses.index_add_(0, which, dose.flatten())
        total += g.sum(0)
        square += g.square().sum(0)
        is_control = (dosage.dose == 0).all(1)
        of_control += g[is_control].sum(0)
        n_control += is_control.sum()
    sums = [score, information, n_cells, doses, total, square, of_control, n_control, by_pair, size]
    processes.sum(sums)
    mean = total / len(cells.screen)
    variance = (square / len(cells.screen) - mean.square()).clamp(min=torch.finfo(total.dtype).tiny)
    doses = doses.unsqueeze(1)
    score -= doses * mean
    from_mean, origin_variance = _origin(mean, of_control, n_control, variance)
    away = (information * shift + score) / doses.where(doses != 0, 1)
    origin = away.clamp(from_mean.clamp(max=0), from_mean.clamp(min=0))
    score -= doses * origin
    square_error = n_cells.unsqueeze(1) * variance
    square_error += (origin != 0) * doses.square() * origin_variance
    if pairs.n:
        square_error += _between_replicates(pairs.column, by_pair, size, variance, len(shift))
    noise = square_error.sqrt()
    return ShiftScores(shift.double(), score, information, noise, n_cells)


def _origin(
    mean: Tensor, of_control: Tensor, n_control: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how far control's cells are from the mean gradient, and its variance, `latent`.

    The sum over the n control cells is `of_control`. A difference d is real as far as it is larger
    than chance, V / n: w d with w = max(0, 1 - V / (n d^2)) is its posterior mean under the prior
    variance d^2 - V / n (empirical Bayes), and w V / n the posterior variance.
    """
    by_chance = variance / n_control.clamp(min=1)
    difference = of_control / n_control.clamp(min=1) - mean
    share = (1 - by_chance / difference.square()).clamp(min=0) * (n_control > 0)
    return share * difference, share * by_chance


class _ReplicatePairs(NamedTuple):
    """Pairs of a column of dosage and a replicate whose cells received it; none if not known."""

    column: Tensor
    """`pair`."""
    of_slot: Tensor
    """`cell slot`: the pair of what a cell received; that of an empty slot is any."""

    @property
    def n(self) -> int:
        return len(self.column)

    @classmethod
    def of(cls, cells: Loader) -> _ReplicatePairs:
        if cells.screen.replicate is None:
            nothing = torch.zeros(0, dtype=torch.int64, device=cells.device)
            return cls(nothing, nothing)
        codes = np.asarray(cells.screen.replicate.codes, np.int64)
        n_codes = max(1, len(cells.screen.replicate.categories)) + 1  # and one for no replicate
        key = cells.received * n_codes + codes[:, None] + 1
        pairs = np.unique(key[cells.received >= 0])
        of_slot = np.searchsorted(pairs, key).clip(max=max(0, len(pairs) - 1))
        both = (pairs // n_codes, of_slot)
        return cls(*(torch.from_numpy(values).to(cells.device) for values in both))


def _between_replicates(
    column: Tensor, score: Tensor, size: Tensor, variance: Tensor, n_columns: int
) -> Tensor:
    """Return by how much the variance of scores is larger than that of cells, `column latent`.

    The score S_tr of n_tr cells of replicate r has the variance n_tr V + n_tr^2 tau^2, where tau^2
    (`latent`, the same for all columns) follows from how replicates differ, by moments:

    sum_tr (S_tr - n_tr S_t / n_t)^2 / n_tr
        = V sum_t (R_t - 1) + tau^2 sum_t (n_t - sum_r n_tr^2 / n_t).

    Returns sum_r n_tr^2 tau^2, 0 for columns none of whose replicates are known.
    """

    def summed(values: Tensor) -> Tensor:
        shape = (n_columns, *values.shape[1:])
        return values.new_zeros(shape).index_add_(0, column, values)

    whole, squares = summed(size), summed(size.square())
    n_replicates = summed(torch.ones_like(size))
    safe = whole.clamp(min=1e-12)
    rest = score - size.unsqueeze(1) * (summed(score) / safe.unsqueeze(1))[column]
    scatter = (rest.square() / size.clamp(min=1e-12).unsqueeze(1)).sum(0)
    n_free = (n_replicates - 1).clamp(min=0).sum()
    scale = (whole - squares / safe).sum()
    tau = ((scatter - n_free * variance) / scale.clamp(min=1e-12)).clamp(min=0)
    return squares.unsqueeze(1) * tau


@contextmanager
def without_gradients(model: PerturbationVAE) -> Iterator[None]:
    """Take no gradients of the parameters, which would cost as much as those of the states."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_()
