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

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.model.embedding import Estimates
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.rotation import sparsest
from samsvae.ops.spike_slab import Matrix, expit, inclusion, logit
from samsvae.train.processes import Processes, SingleProcess
from samsvae.types import Shifts

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


def update_inclusion(
    model: PerturbationVAE,
    train: Loader,
    processes: Processes | None = None,
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> None:
    """Set all masks (and a learned prior) to their closed-form posterior; networks stay.

    With them the embeddings of entries that were closed, which no gradient has moved: by a Newton
    step from 0, and another with the information that the first one shows (the secant). Kinds of
    columns of dosage come one after the other, each given those before it.
    """
    additive = model.mechanism.additive
    assert additive is not None
    kinds = additive.kinds
    for kind in range(1 if kinds is None else int(kinds.max()) + 1):
        _update_kind(model, train, processes, None if kinds is None else kinds == kind, progress)


def _update_kind(
    model: PerturbationVAE,
    train: Loader,
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
    z, n_cells = (x[has_cells].cpu().numpy() for x in (scores.z, scores.n_cells))
    posterior = inclusion(z, n_cells)
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
        asked = opened & (secant > _MIN_INFORMATION)
        there = there._replace(information=torch.where(asked, secant, there.information))
        embedding.update(after, mask.probability(), there.estimates(posterior.error, asked))


def shift_scores(
    model: PerturbationVAE,
    train: Loader,
    processes: Processes | None = None,
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> ShiftScores:
    """Return how far from 0 each shift is by the training cells, and how sure that is.

    Let g_i be the gradient of a cell's ELBO with respect to its displacement, minus its mean over
    all cells (which is the gradient of the origin), v_i the posterior variance of its basal state
    (1 - v_i is its Fisher information about the displacement), and s_t the shift of the most
    probable mask. A Newton step from s leads to the estimate, and the variance of the gradients to
    its standard error, which is valid whether or not the model is right (a sandwich estimator):

    s_tl + S_tl / P_tl,    S_tl = sum_i d_it g_il,    P_tl = sum_i d_it^2 (1 - v_il),
    z_tl = (P_tl s_tl + S_tl) / sqrt(sum_i d_it^2 mean_j g_jl^2)

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
    processes, train = processes or SingleProcess(), train.sample(_PAIRS)
    n_particles = max(1, min(_PARTICLES, _PAIRS // len(train.screen)))
    starts = range(0, len(train.screen), _CELLS_AT_ONCE)[processes.part]
    shift = torch.mul(*additive.most_probable())
    score, information = (torch.zeros_like(shift, dtype=torch.float64) for _ in range(2))
    n_cells, doses = score.new_zeros(2, len(shift)).unbind()
    total, square = score.new_zeros(2, shift.shape[1]).unbind()
    pairs = _ReplicatePairs.of(train)
    by_pair, size = score.new_zeros(pairs.n, shift.shape[1]), score.new_zeros(pairs.n)
    generator = torch.Generator(train.device).manual_seed(0)
    for start in progress(starts):
        rows = slice(start, start + _CELLS_AT_ONCE)
        batch = train.batch(rows)
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
    processes.sum([score, information, n_cells, doses, total, square, by_pair, size])
    mean = total / len(train.screen)
    score -= doses.unsqueeze(1) * mean
    variance = (square / len(train.screen) - mean.square()).clamp(min=torch.finfo(total.dtype).tiny)
    square_error = n_cells.unsqueeze(1) * variance
    if pairs.n:
        square_error += _between_replicates(pairs.column, by_pair, size, variance, len(shift))
    noise = square_error.sqrt()
    return ShiftScores(shift.double(), score, information, noise, n_cells)


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
    def of(cls, train: Loader) -> _ReplicatePairs:
        if train.screen.replicate is None:
            nothing = torch.zeros(0, dtype=torch.int64, device=train.device)
            return cls(nothing, nothing)
        codes = np.asarray(train.screen.replicate.codes, np.int64)
        n_codes = max(1, len(train.screen.replicate.categories)) + 1  # and one for no replicate
        key = train.received * n_codes + codes[:, None] + 1
        pairs = np.unique(key[train.received >= 0])
        of_slot = np.searchsorted(pairs, key).clip(max=max(0, len(pairs) - 1))
        both = (pairs // n_codes, of_slot)
        return cls(*(torch.from_numpy(values).to(train.device) for values in both))


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
