"""Distances between clouds of cells by plain loops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], float]


def points(n: int, *, n_features: int = 3, at: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(at, 1, (n, n_features))


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) ** 0.5)


def between(x: np.ndarray, y: np.ndarray, of: Distance = far) -> float:
    """Return the mean over pairs of one cell of each."""
    return sum(of(a, b) for a in x for b in y) / (len(x) * len(y))


def within(x: np.ndarray, of: Distance = far) -> float:
    """Return the mean over pairs of different cells."""
    pairs = [of(a, b) for a, b in combinations(x, 2)]
    return sum(pairs) / len(pairs)


def plain_energy(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * between(x, y) - within(x) - within(y)


def plain_mmd(x: np.ndarray, y: np.ndarray, scale: float) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-(far(a, b) ** 2) / (2 * scale**2)))

    return within(x, kernel) + within(y, kernel) - 2 * between(x, y, kernel)
