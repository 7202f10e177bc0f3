"""The posterior of effects given a model's prediction and the cells: a mixture of normals.

The effect theta of a condition on a gene is null, or drawn about 0, or about the model's prediction
m:

    p(theta) = pi_0 N(0, lambda_1 t') + sum_k pi_k N(0, lambda_k t)
               + sum_k rho_k N(b m, lambda_k t' + b^2 v)

with t and t' of rank one in condition and gene, v the variance that the model's intervals claim,
and lambda_k a grid. The difference from control that cells show is N(theta, s^2), s its standard
error; for cells on which the model was trained N(theta, kappa s^2) under the components about the
model. m and v are first multiplied by a slope of each condition, and the weights rho_k go to the
components about 0 with the probability that the prediction is uninformative (see `Reliability`).
Where the model predicts an effect, it is less probably null: with t'' the mean of t',

    log pi_0 / (1 - pi_0) = l + a log(m^2 / t'' + lambda_1).

A null effect is too small to be distinguished from the model's own errors: it counts in the local
false sign rate, and intervals include it. This is adaptive shrinkage (Stephens: False discovery
rates: a new deal, Biostatistics 2017) with a second centre, a learned scale and a prior that
depends on a covariate; `samsvae.analysis.shrinkage` estimates its parameters.

Where replicates are known, such as clones, the above is the effect in these replicates, which
training and validation cells share. That in all replicates differs from it by N(0, r), r the
variance between replicates, and has a prior of its own (see `ZeroCentred`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from samsvae.ops.parallel import side_by_side

TINY = 1e-12
GRID = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
"""lambda_k: variances of the components, in units of the spread."""
N_ZERO = 1 + len(GRID)
"""Components about 0, the null component first."""
_NEWTON_STEPS, _TOLERANCE = 120, 1e-9
_NO_DATA = 1e12
"""Variance of a difference that was not observed."""


class ObservedEffects(NamedTuple):
    """Differences from control that cells show."""

    difference: np.ndarray
    """`condition gene`: of means; NaN for a condition without cells to compare."""
    variance: np.ndarray
    """`condition gene`: its squared standard error."""
    n_cells: np.ndarray
    """`condition`."""
    trained_on: np.ndarray
    """`condition`: the share of its cells on which the model was trained."""
    composition: np.ndarray
    """`condition`: log2 fold change of the typical gene, which was subtracted; NaN: none was."""
    between: np.ndarray | None = None
    """`condition gene`: the part of the variance that is between replicates; None: not known."""
    is_rare: np.ndarray | None = None
    """`condition gene`: whether so few counts are known that they tell next to nothing; None: no
    gene is that rare."""

    @property
    def is_telling(self) -> np.ndarray:
        """`condition gene`: whether it was observed, of a gene that is not too rare."""
        return self.is_observed if self.is_rare is None else self.is_observed & ~self.is_rare

    @property
    def of_these_replicates(self) -> ObservedEffects:
        """The same as differences of these replicates, whose cells are independent."""
        if self.between is None:
            return self
        return self._replace(variance=self.variance - self.between, between=None)

    @property
    def is_observed(self) -> np.ndarray:
        """`condition gene`: whether there is a difference, with a standard error."""
        is_finite = np.isfinite(self.difference) & np.isfinite(self.variance)
        return is_finite & (self.variance > 0) & (self.n_cells > 1)[:, None]


class PredictedEffects(NamedTuple):
    """Effects that a model predicts."""

    effect: np.ndarray
    """`condition gene`."""
    variance: np.ndarray
    """`condition gene`: of its posterior, and the Monte Carlo error of `effect`."""


class Reliability(NamedTuple):
    """How well a model's predictions match validation cells, by condition."""

    prob_informative: np.ndarray
    """`condition`: probability that the prediction is informative at all."""
    slope: np.ndarray
    """b_c, `condition`: what its effects are multiplied by if so."""
    variance: np.ndarray
    """`condition`: of the slope."""
    spread: np.ndarray
    """t', `condition gene`: variance of effects about the rescaled prediction."""

    def rescaled(self, predicted: PredictedEffects) -> PredictedEffects:
        """Return predictions times the slope of their condition."""
        slope, variance = self.slope[:, None], self.variance[:, None]
        return PredictedEffects(
            slope * predicted.effect,
            slope**2 * predicted.variance + variance * predicted.effect**2,
        )


class Entries(NamedTuple):
    """Pairs of condition and gene, as vectors."""

    difference: Tensor
    variance: Tensor
    effect: Tensor
    effect_variance: Tensor
    spread: Tensor
    model_spread: Tensor
    prob_informative: Tensor
    log_signal: Tensor
    """log(m^2 / t'' + lambda_1): the size of the predicted effect."""
    trained_on: Tensor
    """Share of the condition's cells on which the model was trained."""

    @classmethod
    def of(
        cls,
        observed: ObservedEffects,
        predicted: PredictedEffects,
        spread: np.ndarray,
        reliability: Reliability,
        *,
        unit: float,
        used: np.ndarray | slice,
    ) -> Entries:
        """Return the entries at some positions; `unit` is t''."""
        is_observed = observed.is_observed
        # What a model says of genes that are hardly counted was checked by nothing.
        is_checked = observed.is_telling | ~is_observed
        values = (
            np.where(is_observed, observed.difference, 0),
            np.where(is_observed, observed.of_these_replicates.variance, _NO_DATA),
            *reliability.rescaled(predicted),
            spread,
            reliability.spread,
            np.where(is_checked, reliability.prob_informative[:, None], 0),
            np.log(np.where(is_checked, predicted.effect**2 / unit, 0) + GRID[0]),
            np.broadcast_to(observed.trained_on[:, None], spread.shape),
        )
        return cls(*(torch.from_numpy(np.array(v, float).ravel()[used]) for v in values))


class MixtureWeights(NamedTuple):
    """Parameters that all entries share: tensors, or numbers once they are estimated."""

    log_weight: Tensor
    """`component`: the null component, those about 0, those about the model; at log signal 0."""
    slope: Tensor | float
    """b: what the model's effects are multiplied by."""
    noise_inflation: Tensor | float
    """kappa, at least 1: of the squared standard errors of cells on which the model was trained."""
    log_odds_slope: Tensor | float
    """a: change of the log odds of the null component per unit of log signal."""

    def log_prior(self, log_signal: Tensor) -> Tensor:
        """Return the log weights of entries, `component entry`."""
        log_weight = self.log_weight[:, None].expand(-1, len(log_signal))
        null = log_weight[:1] + self.log_odds_slope * log_signal
        return torch.log_softmax(torch.cat([null, log_weight[1:]]), 0)


def components(entries: Entries, weights: MixtureWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight, mean and variance of each component's posterior, `component entry`."""
    _, slope, noise_inflation, _ = weights
    grid = torch.tensor(GRID, dtype=torch.float64)[:, None]
    null = GRID[0] * entries.model_spread[None]
    about_zero = torch.cat([null, grid * entries.spread])
    about_model = grid * entries.model_spread + slope**2 * entries.effect_variance
    prior = torch.cat([about_zero, about_model])
    center = slope * entries.effect
    centers = torch.cat([torch.zeros_like(about_zero), center.expand_as(about_model)])
    own = entries.variance.expand_as(about_zero)
    # Cells that the model was trained on are not independent of its prediction: they count less.
    precision = entries.trained_on / noise_inflation + 1 - entries.trained_on
    noise = torch.cat([own, (entries.variance / precision).expand_as(about_model)])
    total = prior + noise
    log_density = -0.5 * (torch.log(total) + (entries.difference - centers) ** 2 / total)
    prior_weight = torch.exp(weights.log_prior(entries.log_signal))
    uninformative = prior_weight[N_ZERO:].sum(0) * (1 - entries.prob_informative)
    about = prior_weight[:N_ZERO] * (1 + uninformative / prior_weight[:N_ZERO].sum(0))
    log_prior = torch.log(
        torch.cat([about, prior_weight[N_ZERO:] * entries.prob_informative]) + TINY
    )
    weight = torch.softmax(log_prior + log_density, 0)
    gain = prior / total
    return weight, centers + gain * (entries.difference - centers), gain * noise


def below(weight: np.ndarray, mean: np.ndarray, sd: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the probability that an effect is below a value, `entry`."""
    return (weight * ndtr((value - mean) / np.maximum(sd, TINY))).sum(0)


def quantile(weight: np.ndarray, mean: np.ndarray, sd: np.ndarray, level: float) -> np.ndarray:
    """Return a quantile of the mixture, `entry`; its first component may be a point at 0.

    By Newton's method; by bisection where a step leaves the bracket, and every third time.
    """
    quantiles = np.zeros(weight.shape[1])
    under = below(weight[1:], mean[1:], sd[1:], quantiles)
    # Bisection does not reach a quantile that lies in a point mass at 0: there it is 0.
    left = np.flatnonzero((sd[0] > 0) | (under >= level) | (under + weight[0] < level))
    weight, mean, sd = (values[:, left] for values in (weight, mean, np.maximum(sd, TINY)))
    center = (weight * mean).sum(0)
    scale = np.sqrt((weight * (sd**2 + (mean - center) ** 2)).sum(0))
    reach = (np.abs(mean) + 5 * sd).max(0)
    low, high, at = -reach, reach, center + ndtri(level) * scale
    for i in range(_NEWTON_STEPS):
        score = (at - mean) / sd
        excess = (weight * ndtr(score)).sum(0) - level
        low, high = np.where(excess < 0, at, low), np.where(excess < 0, high, at)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            density = (weight * np.exp(-0.5 * score**2) / sd).sum(0) / np.sqrt(2 * np.pi)
            step = at - excess / density
        quantiles[left] = at
        going = np.abs(excess) > _TOLERANCE
        if not going.any():
            break
        is_inside = (low < step) & (step < high) & (i % 3 < 2)
        at = np.where(is_inside, step, (low + high) / 2)
        left, at, low, high = (values[going] for values in (left, at, low, high))
        weight, mean, sd = (values[:, going] for values in (weight, mean, sd))
    return quantiles


class ZeroCentred(NamedTuple):
    """A prior of effects about 0: p(theta) = pi_0 delta + sum_k pi_k N(0, lambda_k t)."""

    weight: np.ndarray
    """pi, `component`."""
    spread: np.ndarray
    """t, `condition gene`."""

    def in_all_replicates(self, row: int, own: Mixture, between: np.ndarray) -> Mixture:
        """Return effects of a condition, given those in its own replicates and how these differ.

        Each component of `own`, N(m, s^2), is an estimate of theta with the variance s^2 + r, r the
        variance between replicates, `gene`. An effect that is null in its own replicates is null.
        """
        prior = np.array([0.0, *GRID])[:, None, None] * self.spread[row]
        total = prior + between + own.variance + TINY
        log_weight = np.log(self.weight + TINY)[:, None, None]
        log_joint = log_weight - 0.5 * (np.log(total) + own.mean**2 / total)
        share = np.exp(log_joint - log_joint.max(0))
        share /= share.sum(0)
        is_null = np.where(between > 0, share[0], 0)
        is_null[0] = 1
        share = share[1:] / np.maximum(share[1:].sum(0), TINY)
        gain = np.where(between > 0, prior[1:] / (prior[1:] + between + TINY), 1)
        variance = gain**2 * own.variance + gain * between
        mean, variance = Mixture(share, gain * own.mean, variance).moments
        mean[0], variance[0] = own.mean[0], own.variance[0]
        weight = own.weight * (1 - is_null)
        weight[0] = (own.weight * is_null).sum(0)
        return Mixture(weight, mean, variance)


Record = TypeVar("Record", ObservedEffects, PredictedEffects, Reliability)


def some_rows(record: Record, rows: np.ndarray) -> Record:
    """Return what a record holds of some conditions."""
    own: list[Any] = [None if values is None else values[rows] for values in record]
    return type(record)(*own)


class Posterior(NamedTuple):
    """Posterior of effects, `condition gene` each."""

    mean: np.ndarray
    sd: np.ndarray
    lower: np.ndarray
    """End of the central 90 % interval."""
    upper: np.ndarray
    lower_50: np.ndarray
    """End of the central 50 % interval."""
    upper_50: np.ndarray
    lfsr: np.ndarray
    """Local false sign rate: the probability that the effect is null or of the other sign."""
    prob_null: np.ndarray
    lower_if_changed: np.ndarray
    """End of the 90 % interval given that the effect is not null (by its mean and variance)."""
    upper_if_changed: np.ndarray


@dataclass(frozen=True)
class EffectPrior:
    """The prior of effects, about 0 and about a model's prediction."""

    weights: MixtureWeights
    unit: float
    """t'': the mean spread about the model."""
    spread: np.ndarray
    """t, `condition gene`: variance of effects about 0."""
    reliability: Reliability
    zero_centred: ZeroCentred | None = None
    """Of effects in all replicates, not in those at hand; None if cells are independent."""

    @property
    def model_share(self) -> float:
        """The share of effects about the model's prediction, among those that are not null."""
        weight = np.exp(self.weights.log_weight.numpy())
        return float(weight[N_ZERO:].sum() / weight[1:].sum())

    def of(self, rows: np.ndarray) -> EffectPrior:
        """Return the prior of some conditions, which may be repeated."""
        reliability = some_rows(self.reliability, rows)
        own = replace(self, spread=self.spread[rows], reliability=reliability)
        if self.zero_centred is None:
            return own
        of_replicates = self.zero_centred._replace(spread=self.zero_centred.spread[rows])
        return replace(own, zero_centred=of_replicates)

    def posterior(self, observed: ObservedEffects, predicted: PredictedEffects) -> Posterior:
        """Return effects of the prior's conditions, given what cells show and a model predicts."""
        rows = range(len(observed.n_cells))
        return summaries(lambda row: self.mixture(row, observed, predicted), rows)

    def mixture(self, row: int, observed: ObservedEffects, predicted: PredictedEffects) -> Mixture:
        """Return the posterior of one of the prior's conditions; the prior, without cells."""
        rows = np.array([row])
        own = self.of(rows)
        entries = Entries.of(
            some_rows(observed, rows),
            some_rows(predicted, rows),
            own.spread,
            own.reliability,
            unit=self.unit,
            used=slice(None),
        )
        measured = Mixture(*(values.numpy() for values in components(entries, self.weights)))
        if own.zero_centred is None or observed.between is None:
            return measured
        return own.zero_centred.in_all_replicates(0, measured, observed.between[row])


class Mixture(NamedTuple):
    """Effects on the genes of one condition as mixtures of normals, `component gene`.

    The first component is that of a null effect.
    """

    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance, `gene` each."""
        mean = (self.weight * self.mean).sum(0)
        second = (self.weight * (self.variance + self.mean**2)).sum(0)
        return mean, np.maximum(second - mean**2, 0)

    @property
    def lfsr(self) -> np.ndarray:
        """The probability that the effect is null or of the other sign, `gene`."""
        sd = np.sqrt(self.variance)
        under = below(self.weight[1:], self.mean[1:], sd[1:], np.zeros(sd.shape[1]))
        above = 1 - under - self.weight[0]
        rate: np.ndarray = np.clip(1 - np.maximum(under, above), 0, 1)
        return rate

    def summary(self) -> Posterior:
        """Return what is reported of it, `gene` each."""
        mean, variance = self.moments
        parts = self.weight, self.mean, np.sqrt(self.variance)
        low, high, low_50, high_50 = (quantile(*parts, at) for at in (0.05, 0.95, 0.25, 0.75))
        of_null, of_others = zip(*self._null_or_not(), strict=True)
        half = ndtri(0.95) * np.sqrt(of_others[2])
        return Posterior(
            mean,
            np.sqrt(variance),
            low,
            high,
            low_50,
            high_50,
            self.lfsr,
            of_null[0],
            of_others[1] - half,
            of_others[1] + half,
        )

    def plus(self, other: Mixture) -> Mixture:
        """Return the sum of independent effects; each is null, or normal, which is exact enough.

        The sum is null if both are.
        """
        (p, m, v), (q, n, w) = (
            (x.weight, x.mean, x.variance) for x in (self._null_or_not(), other._null_or_not())
        )
        pairs = [(i, j) for i in (0, 1) for j in (0, 1)]
        return Mixture(
            np.stack([p[i] * q[j] for i, j in pairs]),
            np.stack([m[i] + n[j] for i, j in pairs]),
            np.stack([v[i] + w[j] for i, j in pairs]),
        )

    def minus(self, other: Mixture) -> Mixture:
        """Return the difference of independent effects, as `plus` does their sum."""
        return self.plus(other._replace(mean=-other.mean))

    def _null_or_not(self) -> Mixture:
        """Return two components: the null one, and one for all others, with their moments."""
        weight = self.weight[1:].sum(0)
        share = self.weight[1:] / np.maximum(weight, TINY)
        mean, variance = Mixture(share, self.mean[1:], self.variance[1:]).moments
        return Mixture(
            np.stack([self.weight[0], weight]),
            np.stack([self.mean[0], mean]),
            np.stack([self.variance[0], variance]),
        )


def summaries(mixture: Callable[[int], Mixture], rows: Iterable[int]) -> Posterior:
    """Return what is reported of the effects of some conditions, side by side."""
    parts = side_by_side(lambda row: mixture(row).summary(), list(rows))
    return Posterior(*(np.stack(values) for values in zip(*parts, strict=True)))
