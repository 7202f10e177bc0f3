"""How far a model is right about each condition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samsvae.evaluation.shrinkage.evidence import TINY, Predicted, Shown, rank_one

_ROUNDS = 5
_NULL = 10.0
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
        share = float(np.clip((right.sum() + 1) / (len(right) + 1 + _NULL), 0.01, 0.99))
        center = max(float((right * slope).sum() / right.sum()), 0.0)
        spread = right * ((slope - center) ** 2 + doubt)
        between = max(float(spread.sum() / right.sum()), 1e-4)
    return right, slope, doubt
