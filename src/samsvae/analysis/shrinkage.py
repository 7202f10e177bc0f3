"""Effects given both a model's prediction and what cells show: a mixture of normals.

The effect theta of a condition on a gene is negligible, or drawn about 0, or about the model's
prediction m:

    p(theta) = pi_0 N(0, lambda_1 t') + sum_k pi_k N(0, lambda_k t)
               + sum_k rho_k N(b m, lambda_k t' + b^2 v)

with t and t' of rank one in condition and gene, v the model's own posterior variance, lambda_k a
grid, and the difference from control that cells show N(theta, s^2), s its standard error; beside
the model's prediction N(theta, kappa s^2), for cells from which it has learned. Weights, the slope
b and kappa are chosen to predict validation cells from training cells: whatever the model took over
from the noise of training cells, it loses there, and kappa weighs down what it shares with them
(other cells tell what they tell). Before, m and v are multiplied by a slope of each condition, and
what rho_k says goes to the components about 0 as far as the model is wrong about the condition (see
`Trust`). Where the model says that there is an effect, it is less probably negligible: with t'' the
mean of t',

    log pi_0 / (1 - pi_0) = l + a log(m^2 / t'' + lambda_1)

and validation cells choose l and a. A negligible effect is smaller than what the model's own errors
can be told from; it counts as none (a local false sign rate is the probability of none or of the
wrong sign), and intervals hold it. Adaptive shrinkage (Stephens 2017, Biostatistics 18: 275) with
a second centre, a learned scale, and a prior that goes with a covariate.

What is known of effects: what cells show, and what a model predicts.

How far a model is right about each condition.

The components of an effect's posterior, and what they say together.

Effects given what cells show alone: a mixture of normals about 0.

What effects are expected to be, given a model: learned on validation cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor
from torch.nn import functional as F

from samsvae.ops.parallel import side_by_side

__all__ = [
    "GRID",
    "N_ZERO",
    "EffectPrior",
    "Posterior",
    "Predicted",
    "Shown",
    "Trust",
    "fitted_prior",
    "rank_one",
    "zero_centred",
]


TINY = 1e-12
_MORE_GENES, _MORE_CONDITIONS = 20, 10
"""Of the mean spread, that count with those that there are."""
_ENTRIES = 100_000
"""Pairs of condition and gene that are looked at, at most."""
_SURE = 4.0
"""Standard errors above which squares are more than chance."""


class Shown(NamedTuple):
    """What cells show of conditions, against control."""

    difference: np.ndarray
    """`condition gene`: of means; NaN for a condition without cells to compare."""
    variance: np.ndarray
    """`condition gene`: its squared standard error."""
    n_cells: np.ndarray
    """`condition`."""
    trained_on: np.ndarray
    """`condition`: the share of its cells from which the model has learned."""

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


def some_of(known: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of what is known, `condition gene`; of so many at most, by chance."""
    found = np.flatnonzero(known)
    if len(found) > _ENTRIES:
        found = np.sort(np.random.default_rng(seed).choice(found, _ENTRIES, replace=False))
    return found


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
        return np.full(r.shape, TINY)
    w = np.ones(r.shape[1])
    excess = np.where(known, r**2 - s, 0)
    # EM does not leave a spread of 0, where errors are taken to be a little too large and but few
    # conditions do anything: these start from their own squares.
    chance = _SURE * np.sqrt(2 * np.where(known, s**2, 0).sum(1))
    own = np.where(excess.sum(1) > chance, excess.sum(1), 0) / np.maximum(n_genes, 1)
    u = np.maximum(own, max(float(excess.sum() / known.sum()), TINY))
    for _ in range(n_steps):
        t = u[:, None] * w
        k = t / (t + s)
        square = np.where(known, (k * r) ** 2 + k * s, 0)
        own = (square / w).sum(1)
        mean = own.sum() / known.sum()
        u = np.maximum((own + _MORE_GENES * mean) / (n_genes + _MORE_GENES), TINY)
        own = (square / u[:, None]).sum(0)
        w = np.maximum((own + _MORE_CONDITIONS) / (n_conditions + _MORE_CONDITIONS), TINY)
    return u[:, None] * w


_ROUNDS = 5
_NULL_OF_TRUST = 10.0
"""Conditions that count as ones about which the model says nothing, beside those that there are."""
_CAUTION = 2.0
"""Standard errors that are added to the spread about the model."""


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


def trust_in(valid: Shown, predicted: Predicted) -> Trust:
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
        information = np.maximum((weight * m**2).sum(1), TINY)
        estimate = (weight * np.where(known, d, 0) * m).sum(1) / information
        right, slope, doubt = slopes(estimate, 1 / information)
    # A spread that is not known well is taken to be large.
    error = np.sqrt(2 * np.where(known, (left + noise) ** 2, 0).sum()) / max(known.sum(), 1)
    mean = max(float(left[known].mean()) if known.any() else 0.0, TINY)
    return Trust(right, slope, doubt, left * (1 + _CAUTION * error / mean))


def slopes(estimate: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        share = float(np.clip((right.sum() + 1) / (len(right) + 1 + _NULL_OF_TRUST), 0.01, 0.99))
        center = max(float((right * slope).sum() / right.sum()), 0.0)
        spread = right * ((slope - center) ** 2 + doubt)
        between = max(float(spread.sum() / right.sum()), 1e-4)
    return right, slope, doubt


GRID = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
"""lambda_k: variances of the components, in terms of the spread."""
N_ZERO = 1 + len(GRID)
"""Components about 0, the negligible one first."""
_STEPS_OF_QUANTILE, _TOLERANCE = 120, 1e-9
_NOTHING = 1e12
"""Variance of what cells show that are not there."""


class Entries(NamedTuple):
    """Pairs of condition and gene, one after the other."""

    difference: Tensor
    variance: Tensor
    effect: Tensor
    effect_variance: Tensor
    spread: Tensor
    model_spread: Tensor
    right: Tensor
    """Probability that the model is right about the condition."""
    claim: Tensor
    """log(m^2 / t'' + lambda_1): how much of an effect the model says that there is."""
    trained_on: Tensor
    """Share of the condition's cells from which the model has learned."""

    @classmethod
    def of(
        cls,
        shown: Shown,
        predicted: Predicted,
        spread: np.ndarray,
        trust: Trust,
        *,
        unit: float,
        used: np.ndarray | slice,
    ) -> Entries:
        """Return those that are used, by position; `unit` is t''."""
        known = shown.known
        values = (
            np.where(known, shown.difference, 0),
            np.where(known, shown.variance, _NOTHING),
            *trust.of(predicted),
            spread,
            trust.spread,
            np.broadcast_to(trust.right[:, None], spread.shape),
            np.log(predicted.effect**2 / unit + GRID[0]),
            np.broadcast_to(shown.trained_on[:, None], spread.shape),
        )
        return cls(*(torch.from_numpy(np.array(v, float).ravel()[used]) for v in values))


class Weights(NamedTuple):
    """What is learned of all entries together, numbers or tensors."""

    log_weight: Tensor
    """`component`: of the negligible one, those about 0, those about the model, at a claim of 0."""
    slope: Tensor | float
    """b: what the model's effects are to be multiplied with."""
    inflation: Tensor | float
    """kappa, at least 1: of the squared standard errors of cells that the model has seen."""
    lean: Tensor | float
    """a: what a claim adds to the log odds of the negligible one."""

    def log_prior(self, claim: Tensor) -> Tensor:
        """Return the log weights of entries, `component entry`."""
        every = self.log_weight[:, None].expand(-1, len(claim))
        negligible = every[:1] + self.lean * claim
        return torch.log_softmax(torch.cat([negligible, every[1:]]), 0)


def components(entries: Entries, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight, mean and variance of each component's posterior, `component entry`."""
    _, slope, inflation, _ = weights
    grid = torch.tensor(GRID, dtype=torch.float64)[:, None]
    negligible = GRID[0] * entries.model_spread[None]
    about_zero = torch.cat([negligible, grid * entries.spread])
    about_model = grid * entries.model_spread + slope**2 * entries.effect_variance
    prior = torch.cat([about_zero, about_model])
    center = slope * entries.effect
    centers = torch.cat([torch.zeros_like(about_zero), center.expand_as(about_model)])
    own = entries.variance.expand_as(about_zero)
    # Of these cells the model has seen some, which tell less beside it; the others tell all.
    told = entries.trained_on / inflation + 1 - entries.trained_on
    noise = torch.cat([own, (entries.variance / told).expand_as(about_model)])
    total = prior + noise
    log_density = -0.5 * (torch.log(total) + (entries.difference - centers) ** 2 / total)
    prior_weight = torch.exp(weights.log_prior(entries.claim))
    of_model = prior_weight[N_ZERO:].sum(0) * (1 - entries.right)
    about = prior_weight[:N_ZERO] * (1 + of_model / prior_weight[:N_ZERO].sum(0))
    log_prior = torch.log(torch.cat([about, prior_weight[N_ZERO:] * entries.right]) + TINY)
    weight = torch.softmax(log_prior + log_density, 0)
    gain = prior / total
    return weight, centers + gain * (entries.difference - centers), gain * noise


def below(weight: np.ndarray, mean: np.ndarray, sd: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the probability that an effect is below a value, `entry`."""
    found: np.ndarray = (weight * ndtr((value - mean) / np.maximum(sd, TINY))).sum(0)
    return found


def quantile(weight: np.ndarray, mean: np.ndarray, sd: np.ndarray, level: float) -> np.ndarray:
    """Return a quantile of the mixture, `entry`; its first component may be a point.

    By Newton's steps, from the normal of the same mean and variance; by halves where they leave the
    bracket, and every third time.
    """
    found = np.zeros(weight.shape[1])
    under = below(weight[1:], mean[1:], sd[1:], found)
    # Half way to 0 by halves never gets there: where a point at 0 holds the quantile, it is 0.
    left = np.flatnonzero((sd[0] > 0) | (under >= level) | (under + weight[0] < level))
    weight, mean, sd = (values[:, left] for values in (weight, mean, np.maximum(sd, TINY)))
    center = (weight * mean).sum(0)
    scale = np.sqrt((weight * (sd**2 + (mean - center) ** 2)).sum(0))
    reach = (np.abs(mean) + 5 * sd).max(0)
    low, high, at = -reach, reach, center + ndtri(level) * scale
    for i in range(_STEPS_OF_QUANTILE):
        score = (at - mean) / sd
        excess = (weight * ndtr(score)).sum(0) - level
        low, high = np.where(excess < 0, at, low), np.where(excess < 0, high, at)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            density = (weight * np.exp(-0.5 * score**2) / sd).sum(0) / np.sqrt(2 * np.pi)
            step = at - excess / density
        found[left] = at
        going = np.abs(excess) > _TOLERANCE
        if not going.any():
            break
        newton = (low < step) & (step < high) & (i % 3 < 2)
        at = np.where(newton, step, (low + high) / 2)
        left, at, low, high = (values[going] for values in (left, at, low, high))
        weight, mean, sd = (values[:, going] for values in (weight, mean, sd))
    return found


_NULL_OF_CELLS = 10.0
"""Entries that count as 0 beside those that there are: calls are rather too few than too many."""
_STEPS_OF_CELLS = 200
_NONE = -100.0
"""Log weight of what is left out."""


def zero_centred(shown: Shown, *, seed: int = 0) -> Posterior:
    """Return effects given what cells show, 0 being where they are expected.

    p(theta) = pi_0 delta + sum_k pi_k N(0, lambda_k t), t of rank one in condition and gene, the
    weights those that make the data most likely (EM), pi_0 counting ten more.

    Parameters
    ----------
    shown
        Of the effects.
    seed
        Of the entries that are looked at, where there are many.

    References
    ----------
    Stephens: False discovery rates: a new deal, Biostatistics 2017.
    """
    spread = rank_one(np.where(shown.known, shown.difference, np.nan), shown.variance)
    used = some_of(shown.known, seed)
    d, v, t = (x.ravel()[used] for x in (shown.difference, shown.variance, spread))
    total = np.array([0.0, *GRID])[:, None] * t + v
    log_density = -0.5 * (np.log(total) + d**2 / total)
    weight = np.full(N_ZERO, 1 / N_ZERO)
    pseudo = np.zeros(N_ZERO)
    pseudo[0] = _NULL_OF_CELLS
    for _ in range(_STEPS_OF_CELLS if len(used) else 0):
        joint = np.log(weight)[:, None] + log_density
        share = np.exp(joint - joint.max(0))
        share /= share.sum(0)
        weight = np.maximum((share.sum(1) + pseudo) / (len(used) + _NULL_OF_CELLS), 1e-12)
        weight /= weight.sum()
    n = len(shown.n_cells)
    if n == 0:
        return Posterior(*(spread,) * len(Posterior._fields))
    nobody = Trust(np.zeros(n), np.ones(n), np.zeros(n), np.zeros_like(spread))
    log_weight = np.concatenate([np.log(weight), np.full(len(GRID), _NONE)])
    prior = EffectPrior(
        log_weight, slope=1.0, inflation=1.0, lean=0.0, unit=1.0, spread=spread, trust=nobody
    )
    nothing = np.zeros_like(spread)
    return prior.posterior(shown, Predicted(nothing, nothing))


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
