"""The components of an effect's posterior, and what they say together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from samsvae.evaluation.shrinkage.evidence import TINY, Predicted, Shown
from samsvae.evaluation.shrinkage.trust import Trust

GRID = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
"""lambda_k: variances of the components, in terms of the spread."""
N_ZERO = 1 + len(GRID)
"""Components about 0, the negligible one first."""
_STEPS, _TOLERANCE = 120, 1e-9
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
    for i in range(_STEPS):
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
