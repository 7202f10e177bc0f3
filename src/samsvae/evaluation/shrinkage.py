"""Effects given both a model's prediction and what cells show: a mixture of normals.

The effect theta of a condition on a gene is 0, or drawn about 0, or about the model's prediction m:

    p(theta) = pi_0 delta + sum_k pi_k N(0, lambda_k t) + sum_k rho_k N(b m, lambda_k t' + b^2 v)

with t and t' of rank one in condition and gene, v the model's own posterior variance, lambda_k a
grid, and the difference from control that cells show N(theta, kappa s^2), s its standard error.
Weights, the slope b and kappa are chosen to predict validation cells from training cells: whatever
the model took over from the noise of training cells, it loses there, and kappa weighs down what it
shares with them. Adaptive shrinkage (Stephens 2017, Biostatistics 18: 275) with a second centre and
a learned scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor
from torch.nn import functional as F

from samsvae.inference.parallel import side_by_side

GRID = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
"""lambda_k: variances of the components, in terms of the spread."""
N_ZERO = 1 + len(GRID)
"""Components about 0, the point at 0 first."""
_ENTRIES = 100_000
"""Pairs of condition and gene from which the weights are learned, at most."""
_STEPS = 60
_NULL = 5.0
"""Entries that count as 0 beside those that there are: calls are rather too few than too many."""
_CONCENTRATION = 0.1
"""Weight of a normal prior on the logits: keeps unused components from running away."""
_TINY = 1e-12
_NOTHING = 1e12
"""Variance of what cells show that are not there."""
_ROUNDS = 5
_CAUTION = 2.0
"""Standard errors that are added to the spread about the model."""
_MORE_GENES, _MORE_CONDITIONS = 20, 10
"""Of the mean spread, that count with those that there are."""


class Shown(NamedTuple):
    """What cells show of conditions, against control."""

    difference: np.ndarray
    """`condition gene`: of means; NaN for a condition without cells to compare."""
    variance: np.ndarray
    """`condition gene`: its squared standard error."""
    n_cells: np.ndarray
    """`condition`."""

    def of(self, rows: np.ndarray) -> Shown:
        """Return those of some conditions."""
        return Shown(*(values[rows] for values in self))

    @property
    def known(self) -> np.ndarray:
        """`condition gene`: whether there is anything."""
        found: np.ndarray = np.isfinite(self.difference) & np.isfinite(self.variance)
        return found & (self.variance > 0) & (self.n_cells > 1)[:, None]


class Predicted(NamedTuple):
    """What a model predicts."""

    effect: np.ndarray
    """`condition gene`."""
    variance: np.ndarray
    """`condition gene`: of its posterior, and the Monte Carlo error of `effect`."""

    def of(self, rows: np.ndarray) -> Predicted:
        """Return those of some conditions."""
        return Predicted(*(values[rows] for values in self))


class Trust(NamedTuple):
    """How far a model is right about each condition."""

    right: np.ndarray
    """`condition`: probability that there is something in what it says."""
    slope: np.ndarray
    """b_c, `condition`: what its effects are to be multiplied with then."""
    doubt: np.ndarray
    """`condition`: variance of that."""
    spread: np.ndarray
    """t', `condition gene`: of effects about its own."""

    def of(self, predicted: Predicted) -> Predicted:
        """Return what the model says, as it is to be taken."""
        slope, doubt = self.slope[:, None], self.doubt[:, None]
        return Predicted(
            slope * predicted.effect, slope**2 * predicted.variance + doubt * predicted.effect**2
        )


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
    """Local false sign rate: the probability that the effect is 0 or of the other sign."""


def rank_one(residual: np.ndarray, variance: np.ndarray, *, n_steps: int = 200) -> np.ndarray:
    """Return spreads u_c w_g of effects that are seen with noise, `condition gene`.

    EM for residual ~ N(0, u_c w_g + variance); entries with NaN are left out. Each u_c counts some
    genes more, of the mean spread, each w_g some conditions more: few, noisy numbers say little. A
    condition without any is of the mean spread.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> spread = np.outer([1.0, 4.0], np.linspace(1, 2, 400))
    >>> found = rank_one(rng.normal(0, np.sqrt(spread + 0.1)), np.full((2, 400), 0.1))
    >>> bool(abs(np.log(found.mean(1) / spread.mean(1))).max() < 0.2)
    True
    """
    known = np.isfinite(residual) & np.isfinite(variance)
    r, s = np.where(known, residual, 0), np.where(known, variance, 1)
    n_genes, n_conditions = known.sum(1), known.sum(0)
    if not known.any():
        return np.full(r.shape, _TINY)
    w = np.ones(r.shape[1])
    mean = max(float(np.where(known, r**2 - s, 0).sum() / known.sum()), _TINY)
    u = np.full(len(r), mean)
    for _ in range(n_steps):
        t = u[:, None] * w
        k = t / (t + s)
        square = np.where(known, (k * r) ** 2 + k * s, 0)
        own = (square / w).sum(1)
        mean = own.sum() / known.sum()
        u = np.maximum((own + _MORE_GENES * mean) / (n_genes + _MORE_GENES), _TINY)
        own = (square / u[:, None]).sum(0)
        w = np.maximum((own + _MORE_CONDITIONS) / (n_conditions + _MORE_CONDITIONS), _TINY)
    return u[:, None] * w


@dataclass(frozen=True)
class EffectPrior:
    """How effects are distributed about 0 and about a model's prediction."""

    log_weight: np.ndarray
    """`component`: of the point at 0, those about 0, those about the model."""
    slope: float
    """b: what the model's effects are to be multiplied with."""
    inflation: float
    """kappa, at least 1: of the squared standard errors of cells that the model has seen."""
    spread: np.ndarray
    """t, `condition gene`: about 0."""
    trust: Trust
    """How far the model is right about each condition."""

    @property
    def model_share(self) -> float:
        """Weight of the components about the model's prediction."""
        return float(np.exp(self.log_weight[N_ZERO:]).sum())

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
        predicted = self.trust.of(predicted)

        def of_condition(c: int) -> Posterior:
            return self._posterior(
                Shown(*(values[c : c + 1] for values in shown)),
                Predicted(*(values[c : c + 1] for values in predicted)),
                self.spread[c : c + 1],
                Trust(*(values[c : c + 1] for values in self.trust)),
            )

        parts = side_by_side(of_condition, range(len(shown.n_cells)))
        return Posterior(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def _posterior(
        self, shown: Shown, predicted: Predicted, spread: np.ndarray, trust: Trust
    ) -> Posterior:
        known = shown.known
        entries = _Entries.of(shown, predicted, spread, trust, np.ones_like(known))
        weight, mean, variance = (
            values.numpy()
            for values in _components(
                entries, torch.from_numpy(self.log_weight), self.slope, self.inflation
            )
        )
        shape = spread.shape
        none = ~known.ravel()
        if none.any():  # the prior about the model
            prior = np.exp(self.log_weight[N_ZERO:, None])
            weight[:N_ZERO, none] = 0
            weight[N_ZERO:, none] = prior / prior.sum()
        sd = np.sqrt(variance)
        below, point = _below(weight, mean, sd, np.zeros(len(none))), weight[0]
        above = 1 - below - point
        average = (weight * mean).sum(0)
        second = (weight * (variance + mean**2)).sum(0)
        ends = (_quantile(weight, mean, sd, at).reshape(shape) for at in (0.05, 0.95, 0.25, 0.75))
        lower, upper, lower_50, upper_50 = ends
        return Posterior(
            average.reshape(shape),
            np.sqrt(np.maximum(second - average**2, 0)).reshape(shape),
            lower,
            upper,
            lower_50,
            upper_50,
            np.clip(1 - np.maximum(below, above), 0, 1).reshape(shape),
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
    trust = _trust(valid, predicted)
    predicted = trust.of(predicted)
    used = np.flatnonzero((train.known & valid.known).ravel())
    if len(used) > _ENTRIES:
        used = np.sort(np.random.default_rng(seed).choice(used, _ENTRIES, replace=False))
    mask = np.zeros(spread.size, bool)
    mask[used] = True
    entries = _Entries.of(train, predicted, spread, trust, mask.reshape(spread.shape))
    seen = torch.from_numpy(valid.difference.ravel()[used])
    error = torch.from_numpy(valid.variance.ravel()[used])
    logits, others = torch.zeros(N_ZERO + len(GRID), dtype=torch.float64), torch.zeros(2).double()
    parameters = [logits.requires_grad_(), others.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_weight, slope, inflation = _chosen(logits, others)
        weight, mean, variance = _components(entries, log_weight, slope, inflation)
        total = variance + error
        log_density = -0.5 * (torch.log(total) + (seen - mean) ** 2 / total)
        predictive = torch.logsumexp(torch.log(weight + _TINY) + log_density, 0).sum()
        value: Tensor = (
            _CONCENTRATION * 0.5 * (logits**2).sum()
            + 0.5 * (others**2).sum()
            - _NULL * log_weight[0]
            - predictive
        )
        value.backward()
        return value

    if len(used):
        optimizer.step(loss)
    with torch.no_grad():
        log_weight, slope, inflation = _chosen(logits, others)
    return EffectPrior(log_weight.numpy(), float(slope), float(inflation), spread, trust)


def _chosen(logits: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log weights, slope and inflation."""
    return torch.log_softmax(logits, 0), torch.exp(others[0]), 1 + F.softplus(others[1] - 1)


def _trust(valid: Shown, predicted: Predicted) -> Trust:
    """Return how far the model is right about each condition, by validation cells.

    What they show is b_c times what the model says, and a spread of rank one; b_c is 0 for some
    conditions (whatever the model says, there is nothing in it) and about a common slope for the
    others.
    """
    m, known = predicted.effect, valid.known
    d, noise = np.where(known, valid.difference, np.nan), np.where(known, valid.variance, 1)
    slope = np.ones(len(m))
    for _ in range(_ROUNDS):
        left = rank_one(d - slope[:, None] * m, valid.variance, n_steps=50)
        weight = np.where(known, 1 / (left + noise), 0)
        information = np.maximum((weight * m**2).sum(1), _TINY)
        estimate = (weight * np.where(known, d, 0) * m).sum(1) / information
        right, slope, doubt = _slopes(estimate, 1 / information)
    # A spread that is not known well is taken to be large.
    error = np.sqrt(2 * np.where(known, (left + noise) ** 2, 0).sum()) / max(known.sum(), 1)
    mean = max(float(left[known].mean()) if known.any() else 0.0, _TINY)
    return Trust(right, slope, doubt, left * (1 + _CAUTION * error / mean))


def _slopes(estimate: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, of slopes seen with errors of known variance, the probability that each is not 0.

    And its mean and variance then. EM for a point at 0 and a normal, the shares of both and the
    normal's mean and variance learned.
    """
    share, center, between = 0.9, 1.0, 0.05
    for _ in range(200):
        total = between + error
        at_zero = np.log1p(-share) - 0.5 * (np.log(error) + estimate**2 / error)
        about = np.log(share) - 0.5 * (np.log(total) + (estimate - center) ** 2 / total)
        right = np.exp(about - np.logaddexp(at_zero, about))
        gain = between / total
        slope, doubt = center + gain * (estimate - center), gain * error
        share = float(np.clip((right.sum() + 0.9) / (len(right) + 1), 0.01, 0.99))
        center = max(float((right * slope).sum() / right.sum()), 0.0)
        spread = right * ((slope - center) ** 2 + doubt)
        between = max(float(spread.sum() / right.sum()), 1e-4)
    return right, slope, doubt


class _Entries(NamedTuple):
    """Pairs of condition and gene, one after the other."""

    difference: Tensor
    variance: Tensor
    effect: Tensor
    effect_variance: Tensor
    spread: Tensor
    model_spread: Tensor
    right: Tensor
    """Probability that the model is right about the condition."""

    @classmethod
    def of(
        cls,
        shown: Shown,
        predicted: Predicted,
        spread: np.ndarray,
        trust: Trust,
        used: np.ndarray,
    ) -> _Entries:
        known = shown.known
        values = (
            np.where(known, shown.difference, 0),
            np.where(known, shown.variance, _NOTHING),
            *predicted,
            spread,
            trust.spread,
            np.broadcast_to(trust.right[:, None], spread.shape),
        )
        return cls(*(torch.from_numpy(np.ascontiguousarray(v, float)[used]) for v in values))


def _components(
    entries: _Entries, log_weight: Tensor, slope: Tensor | float, inflation: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight, mean and variance of each component's posterior, `component entry`."""
    grid = torch.tensor([0.0, *GRID], dtype=torch.float64)[:, None]
    about_zero = grid * entries.spread
    about_model = grid[1:] * entries.model_spread + slope**2 * entries.effect_variance
    prior = torch.cat([about_zero, about_model])
    center = slope * entries.effect
    centers = torch.cat([torch.zeros_like(about_zero), center.expand_as(about_model)])
    own = entries.variance.expand_as(about_zero)
    shared = (inflation * entries.variance).expand_as(about_model)
    noise = torch.cat([own, shared])
    total = prior + noise
    log_density = -0.5 * (torch.log(total) + (entries.difference - centers) ** 2 / total)
    prior_weight = torch.exp(log_weight)[:, None]
    of_model = prior_weight[N_ZERO:].sum() * (1 - entries.right)
    about = prior_weight[:N_ZERO] * (1 + of_model / prior_weight[:N_ZERO].sum())
    log_prior = torch.log(torch.cat([about, prior_weight[N_ZERO:] * entries.right]) + _TINY)
    weight = torch.softmax(log_prior + log_density, 0)
    gain = prior / total
    return weight, centers + gain * (entries.difference - centers), gain * noise


def _below(weight: np.ndarray, mean: np.ndarray, sd: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the probability that an effect is below a value, `entry`; without the point at 0."""
    score = (value - mean[1:]) / np.maximum(sd[1:], _TINY)
    found: np.ndarray = (weight[1:] * ndtr(score)).sum(0)
    return found


def _quantile(weight: np.ndarray, mean: np.ndarray, sd: np.ndarray, level: float) -> np.ndarray:
    """Return a quantile of the mixture with its point at 0, by bisection, `entry`."""
    found = np.zeros(weight.shape[1])
    below = _below(weight, mean, sd, found)
    # Half way to 0 by halves never gets there: where the point holds the quantile, it is 0.
    sought = ~((below < level) & (below + weight[0] >= level))
    weight, mean, sd = (values[:, sought] for values in (weight, mean, sd))
    reach = (np.abs(mean) + 5 * sd).max(0)
    low, high = -reach, reach.copy()
    for _ in range(40):
        middle = (low + high) / 2
        held = _below(weight, mean, sd, middle) + np.where(middle >= 0, weight[0], 0)
        low, high = np.where(held < level, middle, low), np.where(held < level, high, middle)
    found[sought] = (low + high) / 2
    return found
