"""Effects of combinations without cells: the sum of their parts, and how far from it they may be.

The effect of a combination is

    theta_AB = theta_A + theta_B + s n_AB + r,    r ~ N(0, u w_g + b a_AB^2),

with theta_A and theta_B the posteriors of its parts, n_AB what the model adds to the sum of its own
effects, and a_AB the mean of theta_A + theta_B. Combinations that were measured, and whose parts
were, show u, w and b; those of which the model saw no cells also show s, how much of n_AB is true.
Without any, b is what published screens have on average, and s is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from samsvae.analysis.mixture import (
    TINY,
    EffectPrior,
    Mixture,
    ObservedEffects,
    Posterior,
    PredictedEffects,
    some_rows,
    summaries,
)
from samsvae.inference.discrepancy import fitted_discrepancy

_PRIOR_SLOPE = 0.1
"""b without measured combinations: two additive effects explain most of a third (Norman et al.,
Science 2019)."""
_PRIOR_COMBINATIONS = 3.0
"""Combinations that this counts as."""
_SUPPORTED = 1 / 3
"""Local false sign rate of a part below which its cells support an effect."""
_SHARE_VARIANCE = 0.1
"""Of s about 0, and of that of each combination about s."""


class Additivity(NamedTuple):
    """How far effects of combinations are from the sum of those of their parts."""

    of_gene: np.ndarray
    """u w_g, `gene`."""
    slope: float
    """b."""
    model_share: float
    """s."""
    n_combinations: int
    """Measured ones from which it was learned."""

    def sum_of(self, parts: list[Mixture], non_additive: np.ndarray) -> Mixture:
        """Return the effect of a combination, given its parts' and what the model adds to them."""
        total = reduce(Mixture.plus, parts)
        additive, _ = total.moments
        mean = total.mean + self.model_share * non_additive
        mean[0] = total.mean[0]
        variance = total.variance + self.of_gene + self.slope * additive**2
        return Mixture(total.weight, mean, variance)


def fitted_additivity(
    observed: ObservedEffects, additive: np.ndarray, variance: np.ndarray, non_additive: np.ndarray
) -> Additivity:
    """Learn it from measured combinations: the sum of their parts and its variance, and n.

    All are `combination gene`.
    """
    n, n_genes = additive.shape
    known = observed.is_observed
    residual = np.where(known, observed.difference - additive, np.nan)
    noise = np.where(known, observed.variance, np.inf) + variance
    share = _share_of_model(residual, noise + _PRIOR_SLOPE * additive**2, non_additive, observed)
    weight = n / (n + _PRIOR_COMBINATIONS)
    of_gene, slope = np.zeros(n_genes), 0.0
    if n:
        spread, slope = fitted_discrepancy(residual - share * non_additive, noise, additive)
        of_gene = spread.of_condition.mean() * spread.of_gene
    return Additivity(weight * of_gene, weight * slope + (1 - weight) * _PRIOR_SLOPE, share, int(n))


def _share_of_model(
    residual: np.ndarray, noise: np.ndarray, non_additive: np.ndarray, observed: ObservedEffects
) -> float:
    """Return s, between 0 and 1: of combinations without training cells, shrunk to 0.

    The model was fitted to the others.
    """
    unseen = (observed.trained_on == 0)[:, None] & np.isfinite(residual)
    precision = np.where(unseen, 1 / noise, 0)
    information = (precision * non_additive**2).sum(1)
    own = (precision * non_additive * np.nan_to_num(residual)).sum(1)
    # Each combination has an s of its own: n genes of one do not count n times.
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(information > 0, 1 / (1 / information + _SHARE_VARIANCE), 0)
        each = np.where(information > 0, own / information, 0)
    share = (weight * each).sum() / (weight.sum() + 1 / _SHARE_VARIANCE)
    return float(np.clip(share, 0, 1))


class _Effect(NamedTuple):
    """An effect, which is computed when it is asked for."""

    mixture: Callable[[], Mixture]
    least_lfsr: Callable[[], np.ndarray]
    """`gene`: what the local false sign rate is at least."""


def _posterior(effects: Sequence[_Effect]) -> Posterior:
    """Return what is reported of some effects, `effect gene`."""
    found = summaries(lambda i: effects[i].mixture(), range(len(effects)))
    least = np.stack([effect.least_lfsr() for effect in effects])
    return found._replace(lfsr=np.maximum(found.lfsr, least))


class SumsOfParts:
    """The effects of combinations without cells.

    `observed` and `predicted` are of all conditions of the prior; `parts` are the rows of the parts
    of each combination, by its own row. `unmeasured` are the rows of perturbations that features
    alone tell of, with the factor of their variances in local false sign rates.
    """

    def __init__(
        self,
        prior: EffectPrior,
        observed: ObservedEffects,
        predicted: PredictedEffects,
        parts: Mapping[int, np.ndarray],
        unmeasured: Mapping[int, float] | None = None,
    ) -> None:
        self.prior, self._observed, self._predicted = prior, observed, predicted
        self._parts = parts
        self._is_measured = np.asarray(observed.is_observed.any(1))
        by_features = (unmeasured or {}).items()
        self._unmeasured = {row: k for row, k in by_features if not self._is_measured[row]}
        self._mixtures: dict[int, Mixture] = {}

    @property
    def combinations(self) -> list[int]:
        """The combinations without cells."""
        return [row for row in self._parts if not self._is_measured[row]]

    @property
    def rows(self) -> list[int]:
        """The combinations without cells, and the perturbations that features alone tell of."""
        return [*self.combinations, *self._unmeasured]

    def posterior(self, rows: Sequence[int]) -> Posterior:
        """Return effects of some conditions: of combinations without cells as sums."""
        return _posterior([self._effect(row) for row in rows])

    def contrast(self, first: int | None, second: int | None) -> Posterior:
        """Return the effect of a condition minus that of another, one row; None is control.

        Called as a sum is: the cells of one of the two have to support that a gene changes.
        """
        (one, of_one), (other, of_other) = self._effect(first), self._effect(second)

        def supported() -> np.ndarray:
            return np.minimum(of_one(), of_other())

        return _posterior([_Effect(lambda: one().minus(other()), supported)])

    def of(
        self,
        rows: Sequence[int | None],
        parts: Sequence[np.ndarray],
        non_additive: np.ndarray,
    ) -> Posterior:
        """Return effects of combinations: of those with cells by their rows, of others as sums.

        Of these, given the rows of their parts and what the model adds.
        """
        return _posterior(
            [
                self._sum(own, added)
                if row is None or not self._is_measured[row]
                else self._effect(row)
                for row, own, added in zip(rows, parts, non_additive, strict=True)
            ]
        )

    def _effect(self, row: int | None) -> _Effect:
        """Return the effect of a condition."""
        n_genes = self._predicted.effect.shape[1]
        if row is None:
            null = Mixture(np.eye(2)[:1].T * np.ones(n_genes), *np.zeros((2, 2, n_genes)))
            return _Effect(lambda: null, lambda: np.ones(n_genes))
        if row in self._parts and not self._is_measured[row]:
            return self._sum(self._parts[row], self._non_additive(row))

        if row in self._unmeasured:
            return self._predicted_by_features(row)

        def mixture() -> Mixture:
            return self.prior.mixture(row, self._observed, self._predicted)

        return _Effect(mixture, lambda: np.zeros(n_genes))

    def _predicted_by_features(self, row: int) -> _Effect:
        """Return the effect of a perturbation without cells: as features predict it."""
        effect, variance = (values[row] for values in self._predicted)
        sd = np.sqrt(np.maximum(self._unmeasured[row] * variance, TINY))
        return _Effect(lambda: self._mixture(row), lambda: ndtr(-np.abs(effect) / sd))

    def _sum(self, parts: np.ndarray, non_additive: np.ndarray) -> _Effect:
        """Return the effect of a combination, given the rows of its parts and what the model adds.

        A gene whose change the cells of no part support is not called: the local false sign rate is
        at least the smallest of the measured parts', and 1 where none of these is below 1/3.
        """

        def mixture() -> Mixture:
            return self.additivity.sum_of([self._mixture(part) for part in parts], non_additive)

        def least_lfsr() -> np.ndarray:
            supported = np.ones_like(non_additive)
            for part in parts[self._is_measured[parts]]:
                supported = np.minimum(supported, self._mixture(part).lfsr)
            supported[supported > _SUPPORTED] = 1
            return supported

        return _Effect(mixture, least_lfsr)

    @cached_property
    def additivity(self) -> Additivity:
        """Learned from the combinations that were measured, and whose parts were."""
        is_measured = self._is_measured
        rows = [
            row
            for row, parts in self._parts.items()
            if is_measured[row] and is_measured[parts].all()
        ]
        moments = [
            np.sum([self._mixture(part).moments for part in self._parts[row]], axis=0)
            for row in rows
        ]
        shape = len(rows), 2, self._predicted.effect.shape[1]
        additive, variance = np.reshape(moments, shape).swapaxes(0, 1)
        non_additive = np.reshape(list(map(self._non_additive, rows)), additive.shape)
        observed = some_rows(self._observed, np.array(rows, int))
        return fitted_additivity(observed, additive, variance, non_additive)

    def _mixture(self, row: int) -> Mixture:
        """Return the posterior of a part by itself."""
        if row in self._unmeasured:
            effect, variance = (values[row] for values in self._predicted)
            never = np.stack([np.zeros_like(effect), np.ones_like(effect)])
            return Mixture(never, never * effect, never * variance)
        if row not in self._mixtures:
            self._mixtures[row] = self.prior.mixture(row, self._observed, self._predicted)
        return self._mixtures[row]

    def _non_additive(self, row: int) -> np.ndarray:
        """Return what the model adds to the sum of the parts of a combination, `gene`."""
        effect = self._predicted.effect
        return np.asarray(effect[row] - effect[self._parts[row]].sum(0))
