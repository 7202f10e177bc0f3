"""Spike-and-slab mixtures: which of many estimates are different from 0.

The share of the slab is learned from all of them (empirical Bayes).
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]

_FREEDOM = 5.0
"""Degrees of freedom of noise and slab: few, since deviations from a linear, converged model have
heavy tails. The slab's are as heavy, so that no estimate is too large to be believed. Chosen by
simulations (docs/identifiability.md)."""
_PRIOR_ENTRIES = 30
"""Entries that the standard errors count as: a few entries, all of shifts, are not all noise."""
_OVERFITTED = 0.001
"""Share of overfitted entries among those that are 0, before any is seen: it counts as
`_PRIOR_ENTRIES`."""
_MIN_IN_USE = 1e-3
"""Dimensions that are in use with a smaller probability do not leak into others."""


def expit(log_odds: Matrix) -> Matrix:
    """Return the probability of log odds."""
    return np.exp(-np.logaddexp(0, -log_odds))


def logit(probability: float) -> float:
    """Return the log odds of a probability."""
    return math.log(probability) - math.log1p(-probability)


def log_bayes_factor(x: Matrix, narrow: Matrix, wide: Matrix) -> Matrix:
    """Return log N(x; 0, wide) - log N(x; 0, narrow), nats, from variances."""
    ratio: Matrix = (np.log(narrow / wide) + x * x * (1 / narrow - 1 / wide)) / 2
    return ratio


def most_likely_share(evidence: Matrix) -> float:
    """Return the share alpha of the slab that makes log Bayes factors most likely.

    max over alpha of sum log(1 - alpha + alpha BF), by expectation maximisation, with half a
    pseudo-entry in the slab and half a one in the spike: without any signal, alpha is that of half
    an entry.

    >>> evidence = np.array([20.0] * 3 + [-1.0] * 17)
    >>> round(most_likely_share(evidence), 2)
    0.26
    """
    share = 0.1
    for _ in range(1000):
        before = share
        n_slab = float(expit(logit(share) + evidence).sum())
        share = (n_slab + 0.5) / (evidence.size + 1)
        if abs(share - before) < 1e-6 * before:
            break
    return share


class HeldOut(NamedTuple):
    """Estimates from cells that the model was not trained on."""

    z: Matrix
    """`perturbation latent`: in units of their standard errors."""
    n_cells: Matrix
    """`perturbation`."""


class Inclusion(NamedTuple):
    """Posterior of which estimates are different from 0, and the parameters it depends on."""

    log_odds: Matrix
    """`perturbation latent`: of the posterior probability that an entry is not 0."""
    evidence: Matrix
    """`perturbation latent`: log Bayes factor of each entry alone, nats: without the odds that its
    dimension is in use, and those of an entry in it."""
    share: float
    """Share of entries that are not 0: the mean probability, with half a pseudo-entry of each
    kind."""
    in_use: Matrix
    """`latent`: posterior probability that any entry of a dimension is not 0."""
    error: float
    """sigma^2, the noise variance of entries that are 0."""
    misalignment: float
    """kappa^2, the variance of cross-loadings: misalignment of the axes, radians squared."""
    slab: float
    """g: mean square of shifts, in units of the sampling variance from a single cell."""


def inclusion(z: Matrix, n_cells: Matrix, held_out: HeldOut | None = None) -> Inclusion:
    """Return the posterior probability that each estimate is of a value different from 0.

    A dimension is in use with probability pi; in one that is, an entry is not 0 with probability
    alpha, and

    z_tl = sum_k delta_kl z_tk + sigma t_tl,                       if it is 0, or
    z_tl = sum_k delta_kl z_tk + (sigma^2 + n_t g)^(1/2) t_tl,     if it is not,
    delta_kl ~ N(0, kappa^2),   t_tl of Student's t,

    summed over the entries k of t that are not 0. Three terms guard against false positives:

    - Cross-loadings delta: axes that are slightly misaligned show a share of each shift in other
      dimensions, the same for all perturbations. They are estimated by ridge regression, without
      the entry in question, and subtracted.
    - An empirical null: the noise variance is estimated from entries that are 0, is at least the
      squared standard error, and the noise has the tails of Student's t.
    - A g-prior as the slab, no narrower than that of unit information, g = 1. As both have the
      tails of Student's t, the evidence never falls with |z|.

    A fourth needs cells that the model was not trained on. A dimension can be fitted to what is
    particular to the training cells of a perturbation: with many genes that is many standard
    errors, in these cells alone. So of the entries that are 0 a share beta is overfitted: `z` is as
    of a shift, but `held_out.z` is as of 0. Of a shift it is

    z'_tl = (n'_t / n_t)^(1/2) z_tl + sigma (1 + n'_t / n_t)^(1/2) t'_tl.

    Held-out cells tell a shift from what is overfitted, and training cells alone tell it from 0, so
    held-out cells never make an entry surer.

    All parameters are estimated by expectation maximisation. `z` (`perturbation latent`) are
    estimates in units of their standard error, `n_cells` (`perturbation`) the cells behind them.

    References
    ----------
    Efron: Large-scale simultaneous hypothesis testing: the choice of a null hypothesis, JASA 2004;
    Kass, Wasserman: A reference Bayesian test for nested hypotheses and its relationship to the
    Schwarz criterion, JASA 1995; George, Foster: Calibration and empirical Bayes variable
    selection, Biometrika 2000; Lange, Little, Taylor: Robust statistical modeling using the t
    distribution, JASA 1989.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> planted = np.where(rng.random((40, 6)) < [0.3, 0.3, 0.3, 0, 0, 0], 15.0, 0.0)
    >>> posterior = inclusion(planted + rng.normal(size=(40, 6)), np.full(40, 100.0))
    >>> bool(((posterior.log_odds > 3) == (planted > 0)).all())  # at 95 % and more
    True
    """
    n_entries, n_dimensions = z.shape
    n = n_cells[:, None]
    share, in_use, noise = 0.2, 0.5, _Noise(1.5, 1e-3)
    open_, used = (z * z > 16).astype(float), np.ones(n_dimensions)
    slab, overfitted, null = _slab(z, n, np.ones_like(z), open_), _OVERFITTED, np.ones_like(z)
    for step in range(200):
        leakage, variance, noise = _leakage(z, open_, used, noise)
        rest, narrow = z - leakage, noise.error + variance
        wide = narrow + n * slab
        evidence = _log_student(rest, wide) - _log_student(rest, narrow)
        if held_out is not None:  # against what is 0 or overfitted
            agreement = _agreement(rest, held_out, leakage, n, narrow)
            of_overfitted = logit(overfitted) + evidence - agreement
            evidence -= np.log1p(-overfitted) + np.logaddexp(0, of_overfitted)
            null = expit(-of_overfitted)
        log_odds = logit(share) + evidence
        # Of a dimension: log of the product over its entries of 1 - alpha + alpha BF.
        of_use = logit(in_use) + (np.log1p(-share) + np.logaddexp(0, log_odds)).sum(0)
        used, before = expit(of_use), open_
        open_ = used * expit(log_odds)
        closed = 1 - open_
        n_overfitted = (closed * (1 - null)).sum() + _OVERFITTED * _PRIOR_ENTRIES
        overfitted = float(n_overfitted / (closed.sum() + _PRIOR_ENTRIES))
        noise = noise._replace(error=_error(rest, narrow, variance, closed * null))
        slab = _slab(rest, n, narrow, open_)
        in_use = float((used.sum() + 0.5) / (n_dimensions + 1))
        share = float((open_.sum() + 0.5) / (used.sum() * n_entries + 1))
        if np.abs(open_ - before).max() < 1e-4:
            break
        open_ = (open_ + before) / 2 if step else open_  # damped: entries determine what leaks
    # The log odds of a product of probabilities, of which neither is rounded to 1.
    both = -np.logaddexp(np.logaddexp(-log_odds, -of_use), -log_odds - of_use)
    mean = float((open_.sum() + 0.5) / (open_.size + 1))
    return Inclusion(both, evidence, mean, used, noise.error, noise.misalignment, slab)


def _agreement(
    rest: Matrix, held_out: HeldOut, leakage: Matrix, n: Matrix, narrow: Matrix
) -> Matrix:
    """Return the log Bayes factor of held-out cells: of the shift of training cells, against 0.

    It is 0 for perturbations without held-out cells.
    """
    share = np.sqrt(held_out.n_cells[:, None] / n)
    other = np.where(share > 0, held_out.z - share * leakage, 0.0)
    of_shift = _log_student(other - share * rest, narrow * (1 + share**2))
    return np.where(share > 0, of_shift - _log_student(other, narrow), 0.0)


class _Noise(NamedTuple):
    error: float
    misalignment: float


def _leakage(
    z: Matrix, open_: Matrix, used: Matrix, noise: _Noise
) -> tuple[Matrix, Matrix, _Noise]:
    """Return the leakage into each entry from other dimensions, its variance, and the new noise.

    From the posterior of each dimension's cross-loadings given its other entries that are 0.
    """
    leakage, leakage_variance = np.zeros_like(z), np.zeros_like(z)
    square, count = 0.0, 0
    dimensions = np.flatnonzero(used > _MIN_IN_USE)
    for own in dimensions:
        others = dimensions[dimensions != own]
        shifts = open_[:, others] * z[:, others]
        weight = (1 - open_[:, own]) / noise.error
        precision = shifts.T @ (weight[:, None] * shifts)
        precision = precision + np.eye(len(others)) / noise.misalignment
        covariance = np.linalg.inv(precision)
        delta = covariance @ (shifts.T @ (weight * z[:, own]))
        variance = ((shifts @ covariance) * shifts).sum(1)
        without = 1 / np.maximum(1 - weight * variance, 1e-3)  # the entry itself
        leakage[:, own] = z[:, own] - (z[:, own] - shifts @ delta) * without
        leakage_variance[:, own] = variance * without
        square += float(delta @ delta + np.trace(covariance))
        count += len(others)
    if count:
        noise = noise._replace(misalignment=max(square / count, 1e-8))
    return leakage, leakage_variance, noise


def _log_student(x: Matrix, square: Matrix) -> Matrix:
    """Return the log density of Student's t with `_FREEDOM` degrees and a squared scale."""
    half = (_FREEDOM + 1) / 2
    constant = math.lgamma(half) - math.lgamma(_FREEDOM / 2) - math.log(_FREEDOM * np.pi) / 2
    return constant - np.log(square) / 2 - half * np.log1p(x * x / (_FREEDOM * square))


def _slab(rest: Matrix, n: Matrix, narrow: Matrix, open_: Matrix) -> float:
    """Return g >= 1 by the moments of the entries that are not 0, with these weights."""
    surplus = (open_ * (rest * rest - narrow) / n).sum()
    return max(float(surplus / max(float(open_.sum()), 1e-12)), 1.0)


def _error(rest: Matrix, narrow: Matrix, leakage_variance: Matrix, weight: Matrix) -> float:
    """Return sigma^2 >= 1, from the residuals of entries that are 0 with these weights."""
    square = rest * rest
    precision = (_FREEDOM + 1) / (_FREEDOM + square / narrow)  # of a t as a mixture of Gaussians
    excess = np.maximum(precision * square - leakage_variance, 0)
    mean = ((weight * excess).sum() + _PRIOR_ENTRIES) / (weight.sum() + _PRIOR_ENTRIES)
    return max(float(mean), 1.0)
