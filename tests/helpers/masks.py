"""Masks, and their best match by trying every order."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np


def masks(*shape: int, seed: int, share: float = 0.4) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def padded(mask: np.ndarray, width: int) -> np.ndarray:
    return np.pad(mask, ((0, 0), (0, width - mask.shape[1])))


def over_orders(a: np.ndarray, b: np.ndarray, score: Callable[..., float]) -> float:
    """Return the best score of two masks over all orders of the latent dimensions of one."""
    width = max(a.shape[1], b.shape[1])
    a, b = padded(a, width), padded(b, width)
    orders = itertools.permutations(range(width))
    return max(score(b.ravel(), a[:, list(order)].ravel()) for order in orders)
