"""What effects are expected to be, given a model: learned on validation cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from samsvae.evaluation.shrinkage.evidence import TINY, Predicted, Shown, rank_one, some_of
from samsvae.evaluation.shrinkage.mixture import (
    GRID,
    N_ZERO,
    Entries,
    Weights,
    below,
    components,
    quantile,
)
from samsvae.evaluation.shrinkage.trust import Trust, trust_in
from samsvae.inference.parallel import side_by_side

_STEPS = 100
_NULL = 5.0
"""Entries that count as negligible beside those that there are: rather too few calls than many."""
_CONCENTRATION = 0.1
"""Weight of a normal prior on the logits: keeps unused components from running away."""


class Posterior(NamedTuple):
    """Effects given both, `condition gene` each."""

    mean: np.ndarray
    sd: np.ndarray
    lower: np.ndarray
    """End of the central 90 % interval."""
    upper: np.ndarray
    lower_50: np.ndarray
    """End of the central 50 % interval."""
    upper_50: np.ndarray
    lfsr: np.ndarray
    """Local false sign rate: the probability that the effect is none or of the other sign."""


@dataclass(frozen=True)
class EffectPrior:
    """How effects are distributed about 0 and about a model's prediction."""

    log_weight: np.ndarray
    """`component`: of the negligible one, those about 0, those about the model, where the model
    says that there is an effect of the usual size."""
    slope: float
    """b: what the model's effects are to be multiplied with."""
    inflation: float
    """kappa, at least 1: of the squared standard errors of cells that the model has seen."""
    lean: float
    """a: how the log odds of the negligible one go with what the model says."""
    unit: float
    """t'': the usual spread about the model."""
    spread: np.ndarray
    """t, `condition gene`: about 0."""
    trust: Trust
    """How far the model is right about each condition."""

    @property
    def model_share(self) -> float:
        """Of effects that are not negligible, the share that lies about the model's prediction."""
        weight = np.exp(self.log_weight)
        return float(weight[N_ZERO:].sum() / weight[1:].sum())

    def of(self, rows: np.ndarray) -> EffectPrior:
        """Return the prior of some conditions, each as often as it is named."""
        trust = Trust(*(values[rows] for values in self.trust))
        return replace(self, spread=self.spread[rows], trust=trust)

    def posterior(self, shown: Shown, predicted: Predicted) -> Posterior:
        """Return effects given what cells show and a model predicts.

        Where cells show nothing, the components about the model speak alone.

        Parameters
        ----------
        shown, predicted
            Of the conditions that the prior is of, in their order.
        """

        def of_condition(c: int) -> Posterior:
            row = np.array([c])
            return self.of(row)._posterior(shown.of(row), predicted.of(row))

        parts = side_by_side(of_condition, range(len(shown.n_cells)))
        return Posterior(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def _posterior(self, shown: Shown, predicted: Predicted) -> Posterior:
        known, spread = shown.known, self.spread
        entries = Entries.of(shown, predicted, spread, self.trust, unit=self.unit, used=slice(None))
        log_weight = torch.from_numpy(self.log_weight)
        learned = Weights(log_weight, self.slope, self.inflation, self.lean)
        weight, mean, variance = (values.numpy() for values in components(entries, learned))
        shape = spread.shape
        none = ~known.ravel()
        if none.any():  # the prior about the model
            prior = np.exp(self.log_weight[N_ZERO:, None])
            weight[:N_ZERO, none] = 0
            weight[N_ZERO:, none] = prior / prior.sum()
        sd = np.sqrt(variance)
        under = below(weight[1:], mean[1:], sd[1:], np.zeros(len(none)))
        above = 1 - under - weight[0]
        average = (weight * mean).sum(0)
        second = (weight * (variance + mean**2)).sum(0)
        ends = (quantile(weight, mean, sd, at).reshape(shape) for at in (0.05, 0.95, 0.25, 0.75))
        lower, upper, lower_50, upper_50 = ends
        return Posterior(
            average.reshape(shape),
            np.sqrt(np.maximum(second - average**2, 0)).reshape(shape),
            lower,
            upper,
            lower_50,
            upper_50,
            np.clip(1 - np.maximum(under, above), 0, 1).reshape(shape),
        )


def fitted_prior(train: Shown, valid: Shown, predicted: Predicted, *, seed: int = 0) -> EffectPrior:
    """Learn how effects are distributed.

    Parameters
    ----------
    train
        What the cells show that the model was trained on.
    valid
        What other cells show, of the same conditions: they are predicted.
    predicted
        What the model says.
    seed
        Of the pairs of condition and gene that are looked at, where there are many.
    """
    spread = rank_one(np.where(train.known, train.difference, np.nan), train.variance)
    trust = trust_in(valid, predicted)
    known = train.known & valid.known
    used = some_of(known, seed)
    unit = max(float(trust.spread[known].mean()) if len(used) else 0.0, TINY)
    entries = Entries.of(train, predicted, spread, trust, unit=unit, used=used)
    seen = torch.from_numpy(valid.difference.ravel()[used])
    error = torch.from_numpy(valid.variance.ravel()[used])
    logits, others = torch.zeros(N_ZERO + len(GRID), dtype=torch.float64), torch.zeros(3).double()
    parameters = [logits.requires_grad_(), others.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights = _chosen(logits, others)
        weight, mean, variance = components(entries, weights)
        total = variance + error
        log_density = -0.5 * (torch.log(total) + (seen - mean) ** 2 / total)
        predictive = torch.logsumexp(torch.log(weight + TINY) + log_density, 0).sum()
        value: Tensor = (
            _CONCENTRATION * 0.5 * (logits**2).sum()
            + 0.5 * (others**2).sum()
            - _NULL * weights.log_prior(entries.claim)[0].mean()
            - predictive
        )
        value.backward()
        return value

    if len(used):
        optimizer.step(loss)
    with torch.no_grad():
        weights = _chosen(logits, others)
        log_weight = weights.log_weight
        slope, inflation, lean = (float(number) for number in weights[1:])
    return EffectPrior(log_weight.numpy(), slope, inflation, lean, unit, spread, trust)


def _chosen(logits: Tensor, others: Tensor) -> Weights:
    """Return the weights that free parameters stand for."""
    slope, inflation = torch.exp(others[0]), 1 + F.softplus(others[1] - 1)
    return Weights(torch.log_softmax(logits, 0), slope, inflation, others[2])
