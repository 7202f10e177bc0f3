"""How far from what it expects a statistical test lets its draws be."""

from __future__ import annotations

import scipy.stats

FAILURE_RATE = 1e-5
"""How often the whole suite may fail by chance, were its draws new each time."""
_STATISTICAL_TESTS = 200
"""At least as many as there are: each gets an equal share of that rate."""


def errors(n_comparisons: int = 1) -> float:
    """Return how many standard errors a statistical test allows each of its comparisons."""
    share = FAILURE_RATE / _STATISTICAL_TESTS / n_comparisons
    return float(scipy.stats.norm.isf(share / 2))
