"""Distances between rows of two arrays."""

from __future__ import annotations

import numpy as np
import torch

from samsvae.ops import native

_TOGETHER = 4
"""The C code takes so many rows at once."""
_CHEAPER = 32
"""A term costs so many times less than an element of a density."""


def manhattan(a: np.ndarray, b: np.ndarray, *, fast: bool = True) -> np.ndarray:
    """Return sum_g |a_pg - b_qg|, `row row`, float64.

    Parameters
    ----------
    a, b
        `row column`.
    fast
        Use the C code where there is any; else torch's, which is the definition.
    """
    left, right = (np.ascontiguousarray(x, np.float64) for x in (a, b))
    if not fast or native.library() is None:
        plain = torch.cdist(torch.from_numpy(left), torch.from_numpy(right), p=1)
        return np.asarray(plain)
    missing = -len(left) % _TOGETHER
    left = np.pad(left, ((0, missing), (0, 0)))
    distance = np.zeros((len(left), len(right)))
    n_threads = native.threads(left.size * len(right) // _CHEAPER)
    sizes = len(left), len(right), left.shape[1], n_threads
    native.call("manhattan", left, right, distance, *sizes)
    return distance[: len(a)]
