"""Estimate the prior of effects: from validation cells, given a model, or from cells alone.

All parameters of the mixture (`samsvae.analysis.mixture`) are chosen to predict validation cells
from training cells: what the model overfitted to the noise of training cells does not help there,
and kappa reduces the weight of the cells on which it was trained.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from samsvae.analysis.mixture import (
    GRID,
    N_ZERO,
    TINY,
    EffectPrior,
    Entries,
    MixtureWeights,
    ObservedEffects,
    Posterior,
    PredictedEffects,
    Reliability,
    ZeroCentred,
    components,
)
from samsvae.inference.discrepancy import rank_one

_MAX_ENTRIES = 100_000
"""Pairs of condition and gene that the prior is estimated from, at most."""
_ROUNDS = 5
_PRIOR_UNINFORMATIVE = 10.0
"""Pseudo-conditions about which the model says nothing."""
_CAUTION = 2.0
"""Standard errors that are added to the spread about the model."""
_PRIOR_NULL_OF_CELLS = 10.0
"""Pseudo-entries that are null, where cells alone count: fewer calls rather than too many."""
_EM_STEPS = 200
_LEFT_OUT = -100.0
"""Log weight of a component that is left out."""
_LBFGS_STEPS = 100
_PRIOR_NULL = 0.05
"""Pseudo-entries that are null, as a share of all: fewer calls rather than too many. Where a model
predicts next to nothing, a null effect and one about the prediction are told apart by little."""
_CONCENTRATION = 0.1
"""Weight of a normal prior on the logits, which keeps unused components from running away."""


def fitted_reliability(valid: ObservedEffects, predicted: PredictedEffects) -> Reliability:
    """Return how well predictions match validation cells, by condition.

    Effects there are b_c times the prediction plus a spread of rank one; b_c is 0 (uninformative)
    or about a common slope.
    """
    m, is_observed = predicted.effect, valid.is_telling
    d = np.where(is_observed, valid.difference, np.nan)
    noise = np.where(is_observed, valid.variance, 1)
    slope = np.ones(len(m))
    for _ in range(_ROUNDS):
        spread = rank_one(d - slope[:, None] * m, valid.variance, n_steps=50).variance
        weight = np.where(is_observed, 1 / (spread + noise), 0)
        information = np.maximum((weight * m**2).sum(1), TINY)
        estimate = (weight * np.where(is_observed, d, 0) * m).sum(1) / information
        prob_informative, slope, variance = slopes(estimate, 1 / information)
    # A spread with a large standard error is taken to be larger, to be on the safe side.
    total = np.where(is_observed, (spread + noise) ** 2, 0).sum()
    error = np.sqrt(2 * total) / max(is_observed.sum(), 1)
    mean = max(float(spread[is_observed].mean()) if is_observed.any() else 0.0, TINY)
    return Reliability(prob_informative, slope, variance, spread * (1 + _CAUTION * error / mean))


def slopes(estimate: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the probability that each slope is not 0, and its mean and variance in that case.

    `error` are the estimates' error variances. EM for a mixture of a point at 0 and a normal.
    """
    share, center, between = 0.9, 1.0, 0.05
    for _ in range(200):
        total = between + error
        at_zero = np.log1p(-share) - 0.5 * (np.log(error) + estimate**2 / error)
        about = np.log(share) - 0.5 * (np.log(total) + (estimate - center) ** 2 / total)
        prob = np.exp(about - np.logaddexp(at_zero, about))
        gain = between / total
        slope, variance = center + gain * (estimate - center), gain * error
        n = len(prob) + 1 + _PRIOR_UNINFORMATIVE
        share = float(np.clip((prob.sum() + 1) / n, 0.01, 0.99))
        center = max(float((prob * slope).sum() / prob.sum()), 0.0)
        spread = prob * ((slope - center) ** 2 + variance)
        between = max(float(spread.sum() / prob.sum()), 1e-4)
    return prob, slope, variance


def zero_centred(observed: ObservedEffects, *, seed: int = 0) -> Posterior:
    """Return effects given cells alone, shrunk towards 0.

    The prior is pi_0 delta + sum_k pi_k N(0, lambda_k t), t of rank one in condition and gene, pi
    estimated by EM with ten more null entries; the seed draws entries, if there are many.
    """
    n = len(observed.n_cells)
    differences = np.where(observed.is_observed, observed.difference, np.nan)
    spread = rank_one(differences, observed.variance).variance
    weight = _fitted_weights(observed, spread, _PRIOR_NULL_OF_CELLS, seed)
    if n == 0:
        return Posterior(*(spread,) * len(Posterior._fields))
    no_model = Reliability(np.zeros(n), np.ones(n), np.zeros(n), np.zeros_like(spread))
    log_weight = np.concatenate([np.log(weight), np.full(len(GRID), _LEFT_OUT)])
    weights = MixtureWeights(torch.from_numpy(log_weight), 1.0, 1.0, 0.0)
    prior, zero = EffectPrior(weights, 1.0, spread, no_model), np.zeros_like(spread)
    return prior.posterior(observed._replace(between=None), PredictedEffects(zero, zero))


def about_zero(observed: ObservedEffects, *, seed: int = 0) -> ZeroCentred:
    """Estimate the prior about 0 of effects in all replicates, from those in the ones at hand.

    t is in proportion to the gene's squared errors, whatever the scale. If it was fitted to each
    condition and gene, replicates that differ by chance would pass for effects.
    """
    is_observed = observed.is_observed
    if not is_observed.any():
        return ZeroCentred(np.eye(N_ZERO)[0], np.zeros(is_observed.shape))
    errors = np.ma.masked_array(observed.variance, ~is_observed)
    squares = observed.difference[is_observed] ** 2 / observed.variance[is_observed]
    unit = max(float(squares.mean()) - 1, TINY)
    of_gene = np.ma.median(errors, axis=0).filled(TINY)
    spread = unit * np.broadcast_to(of_gene, is_observed.shape)
    n_null = _PRIOR_NULL * min(int(is_observed.sum()), _MAX_ENTRIES)
    return ZeroCentred(_fitted_weights(observed, spread, n_null, seed), spread)


def _fitted_weights(
    observed: ObservedEffects, spread: np.ndarray, n_null: float, seed: int
) -> np.ndarray:
    """Return the weights of a prior about 0 by EM, with some more null entries, `component`."""
    used = _subsample(observed.is_observed, seed)
    d, v, t = (x.ravel()[used] for x in (observed.difference, observed.variance, spread))
    total = np.array([0.0, *GRID])[:, None] * t + v
    log_density = -0.5 * (np.log(total) + d**2 / total)
    weight = np.full(N_ZERO, 1 / N_ZERO)
    pseudo = np.zeros(N_ZERO)
    pseudo[0] = n_null
    for _ in range(_EM_STEPS if len(used) else 0):
        joint = np.log(weight)[:, None] + log_density
        share = np.exp(joint - joint.max(0))
        share /= share.sum(0)
        weight = np.maximum((share.sum(1) + pseudo) / (len(used) + n_null), 1e-12)
        weight /= weight.sum()
    return weight


def fitted_prior(
    train: ObservedEffects, valid: ObservedEffects, predicted: PredictedEffects, *, seed: int = 0
) -> EffectPrior:
    """Estimate the prior of effects so that it predicts `valid` from `train` and the model.

    `train` are effects in the model's training cells; the seed draws entries, if there are many.
    """
    valid = valid._replace(is_rare=train.is_rare)
    differences = np.where(train.is_telling, train.difference, np.nan)
    spread = rank_one(differences, train.variance).variance
    reliability = fitted_reliability(valid, predicted)
    in_both = train.is_telling & valid.is_telling
    used = _subsample(in_both, seed)
    unit = max(float(reliability.spread[in_both].mean()) if len(used) else 0.0, TINY)
    entries = Entries.of(train, predicted, spread, reliability, unit=unit, used=used)
    heldout = torch.from_numpy(valid.difference.ravel()[used])
    error = torch.from_numpy(valid.variance.ravel()[used])
    logits, others = torch.zeros(N_ZERO + len(GRID), dtype=torch.float64), torch.zeros(3).double()
    parameters = [logits.requires_grad_(), others.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=_LBFGS_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights = _weights(logits, others)
        weight, mean, variance = components(entries, weights)
        total = variance + error
        log_density = -0.5 * (torch.log(total) + (heldout - mean) ** 2 / total)
        predictive = torch.logsumexp(torch.log(weight + TINY) + log_density, 0).sum()
        value: Tensor = (
            _CONCENTRATION * 0.5 * (logits**2).sum()
            + 0.5 * (others**2).sum()
            - _PRIOR_NULL * weights.log_prior(entries.log_signal)[0].sum()
            - predictive
        )
        value.backward()
        return value

    if len(used):
        optimizer.step(loss)
    with torch.no_grad():
        log_weight, *numbers = _weights(logits, others)
        weights = MixtureWeights(log_weight, *map(float, numbers))
    return EffectPrior(weights, unit, spread, reliability)


def _weights(logits: Tensor, others: Tensor) -> MixtureWeights:
    """Return the weights that free parameters stand for."""
    slope, noise_inflation = torch.exp(others[0]), 1 + F.softplus(others[1] - 1)
    return MixtureWeights(torch.log_softmax(logits, 0), slope, noise_inflation, others[2])


def _subsample(entries: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of entries, `condition gene`, at most so many of them at random."""
    positions = np.flatnonzero(entries)
    if len(positions) > _MAX_ENTRIES:
        rng = np.random.default_rng(seed)
        positions = np.sort(rng.choice(positions, _MAX_ENTRIES, replace=False))
    return positions
