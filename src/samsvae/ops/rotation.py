"""Rotations to the axes in which a matrix is sparsest."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

Loss: TypeAlias = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Value of a loss of a matrix, and its gradient."""

_STARTS = 8
_NOISE = 1e-9
"""Singular values below this share of the largest are none."""


class Rotation(NamedTuple):
    """A rotation of latent space."""

    matrix: np.ndarray
    """Q, `latent latent`, orthogonal: rows are rotated as `values @ Q`. The columns are ordered by
    how much of the values they hold."""
    loss: float
    """Smooth L1 norm of the rotated values."""


def sparsest(values: np.ndarray, width: float, *, seed: int = 0) -> Rotation:
    """Return the orthogonal Q that makes `values @ Q` sparsest.

    The smallest sum of sqrt(x^2 + width^2) over the entries: each counts by its size, those within
    the noise hardly. Gradient projection from varimax solutions of several random starts; the best
    is kept. Only the subspace that the values span is rotated: axes beyond it stay orthogonal to
    all of them.

    Parameters
    ----------
    values
        `perturbation latent`, such as the shifts of perturbations.
    width
        Size of the noise of an entry.
    seed
        Of the starts: same seed, same rotation.

    References
    ----------
    Jennrich: Rotation to simple loadings using component loss functions, Psychometrika 2006;
    Rohe, Zeng: Vintage factor analysis with varimax performs statistical inference, JRSS B 2023;
    Lachapelle et al.: Disentanglement via mechanism sparsity regularization, CLeaR 2022.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> planted = rng.choice([-1.0, 0.0, 0.0, 0.0, 2.0], (60, 4))
    >>> turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    >>> found = planted @ turn @ sparsest(planted @ turn, 0.01).matrix
    >>> bool(np.sum(np.abs(found) > 0.1) == np.sum(planted != 0))
    True
    """
    _, size, axes = np.linalg.svd(values)
    rank = int(np.sum(size > _NOISE * size.max(initial=0.0)))
    inside, outside = axes[:rank].T, axes[rank:].T
    spanned, rng = values @ inside, np.random.default_rng(seed)
    best, lowest = np.eye(rank), np.inf
    for start in range(_STARTS if rank > 1 else 0):
        turn = np.eye(rank) if start == 0 else np.linalg.qr(rng.normal(size=(rank, rank)))[0]
        turn = _descended(spanned, turn, _varimax)
        turn = _descended(spanned, turn, lambda x: _smooth_l1(x, width))
        loss = _smooth_l1(spanned @ turn, width)[0]
        if loss < lowest - 1e-9 * abs(loss):
            best, lowest = turn, loss
    order = np.argsort(-np.square(spanned @ best).sum(0), kind="stable")
    matrix = np.hstack([inside @ best[:, order], outside])
    return Rotation(matrix, _smooth_l1(values @ matrix, width)[0])


def _smooth_l1(x: np.ndarray, width: float) -> tuple[float, np.ndarray]:
    root = np.sqrt(x * x + width * width)
    return float(root.sum()), x / np.maximum(root, np.finfo(float).tiny)


def _varimax(x: np.ndarray) -> tuple[float, np.ndarray]:
    square = x * x
    centred = square - square.mean(0)
    return -float((centred * square).sum()) / 4, -x * centred


def _descended(values: np.ndarray, turn: np.ndarray, loss: Loss, n_steps: int = 500) -> np.ndarray:
    """Return the turn at which gradient projection comes to rest.

    A step against the gradient along the orthogonal matrices, moved back to the nearest of them;
    halved until the loss falls (Jennrich, Psychometrika 2001).
    """
    value, slope = loss(values @ turn)
    length = 1.0
    for _ in range(n_steps):
        gradient = values.T @ slope
        inner = turn.T @ gradient
        along = gradient - turn @ (inner + inner.T) / 2
        steepness = float(np.square(along).sum())
        if steepness <= (1e-9 * max(abs(value), 1e-300)) ** 2:
            break
        length *= 2
        for _ in range(40):
            left, _, right = np.linalg.svd(turn - length * along)
            ahead = left @ right
            lower, slope_ahead = loss(values @ ahead)
            if lower < value - steepness * length / 2:
                break
            length /= 2
        else:
            break
        turn, value, slope = ahead, lower, slope_ahead
    return turn
