"""Effects of perturbations without cells, from those of others that features say are alike.

The effects of measured perturbations are mean + scores + rest, the scores those of a few principal
components of effects in units of their errors, each with the prior of
`samsvae.inference.kernel_prior`: what features say of a perturbation is said component by
component, with a variance. What components do not hold is 0 plus a spread of each gene. Variances
are scaled so that, of each measured perturbation predicted from the others, central 90 % intervals
hold 90 % of its effects; for local false sign rates, so that of calls at a q value below 0.05 cells
contradict the sign of at most 5 %.

In latent space alone it would not do: a model keeps what it is sure of, so shifts of most
perturbations are 0, and what they have in common is lost (docs/unmeasured.md has the numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from torch import Tensor

from samsvae.inference.kernel_prior import (
    Estimates,
    KernelPosterior,
    KernelPrior,
    RowPosterior,
    fitted_prior,
)

_LIMIT = 0.05
"""Variance that is added to squared errors: no gene counts more than 1 / 0.05, as in scores."""
_MOST_COMPONENTS, _FEWEST_COMPONENTS = 20, 2
_PRIOR_PERTURBATIONS = 5.0
"""Perturbations that the mean spread of all genes counts as, in that of each gene."""
_LEVEL = 0.9
_CALLED, _WRONG = 0.05, 0.05
"""Calls are those with a smaller q value, of which at most so many may be wrong."""
_TINY = 1e-9
_FEWEST_ENTRIES = 50
"""Effects whose errors are not mostly those of cells, from which on they show widths."""
_MAX_ENTRIES = 100_000
"""Effects, at random, from which it is learned when cells contradict signs."""
_MOST_UNSURE, _NEVER = 1e4, 1e12
_WIDEST, _NARROWEST = 10.0, 0.6
"""Factors of the standard deviation, at most and at least."""
N_CLOSEST = 3
_ROWS_AT_ONCE = 1024


class UnmeasuredEffects(NamedTuple):
    """What effects of perturbations are predicted from; saved with the model."""

    factor: np.ndarray
    """`perturbation rank`: (a_j^(1/2) F_j)_j, 0 without features."""
    has_features: np.ndarray
    """`perturbation`."""
    is_measured: np.ndarray
    """`perturbation`: whether its own cells show its effects."""
    score: np.ndarray
    """`perturbation component`: of measured effects; 0 without."""
    score_variance: np.ndarray
    """`perturbation component`: squared errors of the scores."""
    square: np.ndarray
    """`component`: prior variance of the scores."""
    component: np.ndarray
    """`component gene`: effects of a score of 1."""
    mean: np.ndarray
    """`gene`: what effects have in common, besides that of the components."""
    spread: np.ndarray
    """`gene`: variance of effects about the components."""
    width: np.ndarray
    """`one`: factor of variances in intervals."""
    sign_width: np.ndarray
    """`one`: factor of variances in local false sign rates."""
    weight: np.ndarray
    """`source`: a_j."""

    @property
    def rho(self) -> float:
        """The share of variance that features may explain."""
        return float(self.weight.sum())

    @property
    def sign_ratio(self) -> float:
        """Factor of variances in local false sign rates, from those in intervals."""
        return float(self.sign_width[0] / self.width[0])

    @property
    def posterior(self) -> KernelPosterior:
        """What the scores of measured perturbations say."""
        rows = np.flatnonzero(self.is_measured)
        estimates = Estimates(self.score[rows], self.score_variance[rows])
        prior = KernelPrior(np.ones(1), self.square, 0.0)
        return KernelPosterior(prior, estimates, [self.factor[rows]])

    def effects(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return effects of perturbations without cells and their variance, `row gene` each."""
        scores = self.posterior.new([self.factor[rows]])
        return self._of_scores(scores)

    def _of_scores(self, scores: RowPosterior) -> tuple[np.ndarray, np.ndarray]:
        mean = self.mean + scores.mean @ self.component
        variance = scores.variance @ self.component**2 + self.spread
        return mean, float(self.width[0]) * variance

    def support(self, rows: np.ndarray) -> np.ndarray:
        """Return the share of the prior variance of effects that features explain, `row`."""
        posterior = self.posterior
        scores = posterior.new([self.factor[rows]])
        unexplained = posterior.new([np.zeros((1, self.factor.shape[1]))])
        size = np.square(self.component).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share: np.ndarray = 1 - (scores.variance @ size) / (unexplained.variance @ size)
        return np.clip(np.nan_to_num(share), 0, 1)

    def closest(self, rows: np.ndarray) -> np.ndarray:
        """Return the measured perturbations that say most of others, `row closest`, -1 for none.

        By the weight of their effects in the prediction, the largest first.
        """
        measured = np.flatnonzero(self.is_measured)
        found = np.full((len(rows), N_CLOSEST), -1)
        n = min(N_CLOSEST, len(measured))
        size = self.square * np.square(self.component).sum(1)
        share = size / max(float(size.sum()), 1e-300)
        posterior = self.posterior
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            weight = np.abs(posterior.smoother([self.factor[some]], share))
            order = np.argsort(-weight, axis=1, kind="stable")[:, :n]
            enough = np.take_along_axis(weight, order, 1) > 1e-6
            found[start : start + len(some), :n] = np.where(enough, measured[order], -1)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the arrays, for saving."""
        arrays = {f"unmeasured_{name}": value for name, value in self._asdict().items()}
        return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in arrays.items()}

    @classmethod
    def taken_from(cls, arrays: dict[str, np.ndarray]) -> Self | None:
        """Take what `tensors` returned out of arrays; None if it is not there."""
        names = [f"unmeasured_{name}" for name in cls._fields]
        if names[0] not in arrays:
            return None
        return cls(*(arrays.pop(name) for name in names))


def fitted(
    effect: np.ndarray,
    variance: np.ndarray,
    expected: np.ndarray,
    of_control: np.ndarray,
    factors: Sequence[np.ndarray],
    measured: np.ndarray,
    *,
    seed: int = 0,
) -> UnmeasuredEffects:
    """Return what measured effects, `measured gene`, say of all perturbations.

    `variance` are their squared errors, `expected` those without a margin (infinite where little is
    known), `of_control` the part of both that is of control cells, `factors` of all perturbations,
    `perturbation rank`, and `measured` the rows of those that were measured.
    """
    scale = 1 / np.sqrt(np.median(variance, 0) + _LIMIT)
    axes = _components(effect, variance, scale)
    score, score_variance = (effect * scale) @ axes.T, (variance * scale**2) @ np.square(axes).T
    estimates = Estimates(score, score_variance)
    prior = fitted_prior(estimates, [factor[measured] for factor in factors], seed=seed)
    n, n_components = len(factors[0]), len(axes)
    whole = np.zeros((2, n, n_components))
    whole[:, measured] = score, score_variance
    mean = effect.mean(0)  # not by precision: a gene that is low by chance has a larger error
    used = [np.sqrt(a) * f for a, f in zip(prior.weights, factors, strict=True) if a > 0]
    found = UnmeasuredEffects(
        factor=np.concatenate([np.zeros((n, 0)), *used], 1),
        has_features=np.any([np.square(factor).sum(1) > 0 for factor in factors], axis=0),
        is_measured=np.isin(np.arange(n), measured),
        score=whole[0],
        score_variance=whole[1],
        square=prior.square,
        component=axes / scale,
        mean=mean - ((mean * scale) @ axes.T) @ (axes / scale),
        spread=np.zeros(effect.shape[1]),
        width=np.ones(1),
        sign_width=np.ones(1),
        weight=prior.weights,
    )
    # Errors of control cells are the same for all, so of one predicted from others they are none.
    found = _calibrated(found, effect, np.maximum(expected - of_control, _TINY))
    return found._replace(spread=found.spread + of_control.mean(0) / found.width)


def _components(effect: np.ndarray, variance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the principal axes of effects beyond noise, `component gene`.

    Singular values of noise are at most about sd (sqrt(rows) + sqrt(genes)); as its sd differs
    between rows, some axes of noise may be among them: their scores have errors as large.
    """
    n_rows, n_genes = effect.shape
    _, singular, axes = np.linalg.svd(effect * scale, full_matrices=False)
    noise = np.sqrt((variance * scale**2).mean()) * (np.sqrt(n_rows) + np.sqrt(n_genes))
    fewest, most = min(_FEWEST_COMPONENTS, n_rows - 1), min(_MOST_COMPONENTS, n_rows - 1)
    beyond: np.ndarray = axes[: max(fewest, min(int((singular > noise).sum()), most))]
    return beyond


def _calibrated(
    fit: UnmeasuredEffects, effect: np.ndarray, expected: np.ndarray
) -> UnmeasuredEffects:
    """Return the fit with the spread of genes, and variances that hold for perturbations left out.

    Each is predicted from the scores of the others.
    """
    left_out = fit.posterior.left_out()
    predicted, of_scores = fit._of_scores(left_out)
    known = np.isfinite(expected)
    error = np.where(known, effect - predicted, 0)
    noise = np.where(known, expected, 0)
    excess = np.where(known, error**2 - noise - of_scores, 0).sum(0)
    pooled = max(float(excess.sum() / max(known.sum(), 1)), 0.0)
    of_gene = (excess + _PRIOR_PERTURBATIONS * pooled) / (known.sum(0) + _PRIOR_PERTURBATIONS)
    fit = fit._replace(spread=np.maximum(of_gene, 0.1 * pooled + 1e-6))
    _, variance = fit._of_scores(left_out)
    half = ndtri((1 + _LEVEL) / 2)
    square, variance, noise = error[known] ** 2, variance[known], noise[known]
    tells = variance > noise  # other errors are those of cells

    def missing(log_width: float) -> float:
        held = square <= half**2 * (np.exp(log_width) * variance + noise)
        return float(held[tells].mean() - _LEVEL)

    low, high = 2 * np.log(_NARROWEST), 2 * np.log(_WIDEST)
    if tells.sum() < _FEWEST_ENTRIES:
        width = 1.0
    elif missing(low) > 0:
        width = np.exp(low)
    elif missing(high) < 0:
        width = np.exp(high)
    else:
        width = np.exp(brentq(missing, low, high, xtol=1e-3))
    width = float(width)
    some = np.random.default_rng(0).permutation(len(square))[:_MAX_ENTRIES]
    z = (np.abs(predicted[known]) / np.sqrt(variance))[some]
    is_wrong = (np.sign(predicted[known]) != np.sign(effect[known]))[some]
    factors = width * np.geomspace(1, _MOST_UNSURE, 30)
    sure = (f for f in factors if _share_wrong(z / np.sqrt(f), is_wrong) <= _WRONG)
    return fit._replace(width=np.array([width]), sign_width=np.array([next(sure, _NEVER)], float))


def q_values(lfsr: np.ndarray) -> np.ndarray:
    """Return the mean lfsr of all entries with one at most as large, in the shape of `lfsr`."""
    ascending = np.sort(lfsr, axis=None)
    n_as_sure = np.searchsorted(ascending, lfsr, side="right")
    return np.cumsum(ascending)[n_as_sure - 1] / n_as_sure if lfsr.size else lfsr


def _share_wrong(z: np.ndarray, is_wrong: np.ndarray) -> float:
    """Return the share of calls that cells contradict, of effects this many deviations from 0.

    With one more that they do: few calls, or none, show nothing.
    """
    is_called = q_values(ndtr(-z)) < _CALLED
    return float(is_wrong[is_called].sum() + 1) / float(is_called.sum() + 1)
