"""Rotations to the axes in which estimates are sparsest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from samsvae.ops.spike_slab import Matrix, expit, log_bayes_factor, logit, most_likely_share

Loss: TypeAlias = Callable[[Matrix], tuple[float, Matrix]]
"""Value of a loss of a matrix, and its gradient."""

_STARTS = 16
"""Starting points: the varimax solution, and random rotations."""
_REFINEMENTS = 15
_TINY = 1e-9
"""Singular values below this share of the largest count as 0."""


class Rotation(NamedTuple):
    """A rotation of latent space."""

    matrix: Matrix
    """Q, `latent latent`, orthogonal: rows are rotated as `values @ Q`. Columns are ordered by how
    much of the values they hold."""
    share: float
    """Estimated share of the rotated entries that are not 0."""


def sparsest(
    values: Matrix, scale: Matrix, *, seed: int = 0, start: Matrix | None = None
) -> Rotation:
    """Return the orthogonal Q that makes `values @ Q` sparsest.

    `values` and `scale` are posterior means and standard deviations, `column latent`, in units of
    the prior's standard deviation. First, the smallest sum of sqrt(x^2 + w^2) over the entries, w
    the median scale, so that values within the noise hardly count: gradient projection from the
    varimax solution and from random starts (or from `start` alone), of which the best is kept. Then
    the largest marginal likelihood of the entries,

    x ~ (1 - alpha) N(0, u) + alpha N(0, u + (1 - v)^2),    u = v (1 - v),

    that of posterior means with posterior variance v under the prior N(0, 1), of which a share
    alpha is not 0; alpha by expectation maximisation. Only the subspace that the values span is
    rotated: further axes are orthogonal to all of them.

    References
    ----------
    Jennrich: Rotation to simple loadings using component loss functions, Psychometrika 2006;
    Rohe, Zeng: Vintage factor analysis with varimax performs statistical inference, JRSS B 2023;
    Lachapelle et al.: Disentanglement via mechanism sparsity regularization, CLeaR 2022.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> planted = rng.choice([-1.0, 2.0, *8 * [0.0]], (60, 4))
    >>> turned = planted @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    >>> recovered = turned @ sparsest(turned, np.full((60, 4), 0.1)).matrix
    >>> int(np.sum(np.abs(recovered) > 0.1)) == int(np.sum(planted != 0))
    True
    """
    values, scale = np.asarray(values, np.float64), np.asarray(scale, np.float64)
    # All axes of latent space are needed, but no more left singular vectors than columns of dosage.
    _, size, axes = np.linalg.svd(values, full_matrices=len(values) < values.shape[1])
    rank = int(np.sum(size > _TINY * size.max(initial=0.0)))
    inside, outside = axes[:rank].T, axes[rank:].T
    spanned, width = values @ inside, max(float(np.median(scale)), _TINY)
    turn, lowest = np.eye(rank), np.inf
    for other in _starts(spanned, seed) if start is None else [np.linalg.qr(inside.T @ start)[0]]:
        other = _descended(spanned, other, lambda x: _smooth_l1(x, width))
        loss = _smooth_l1(spanned @ other, width)[0]
        if loss < lowest - 1e-9 * abs(loss):
            turn, lowest = other, loss
    share = 0.1 if rank else 0.0
    precision = np.maximum(scale, _TINY) ** -2
    for _ in range(_REFINEMENTS if rank else 0):
        variance = np.clip(1 / (precision @ np.square(inside @ turn)), 1e-6, 1 - 1e-6)
        narrow = variance * (1 - variance)
        wide = narrow + (1 - variance) ** 2
        share = most_likely_share(log_bayes_factor(spanned @ turn, narrow, wide))
        mixture = _spike_and_slab(narrow, wide, min(share, 0.5))
        turn = _descended(spanned, turn, mixture, n_steps=50)
    order = np.argsort(-np.square(spanned @ turn).sum(0), kind="stable")
    return Rotation(np.hstack([inside @ turn[:, order], outside]), share)


def _starts(values: Matrix, seed: int) -> Iterator[Matrix]:
    """Yield the varimax solution, then random rotations."""
    rng, rank = np.random.default_rng(seed), values.shape[1]
    yield _descended(values, np.eye(rank), _varimax)
    for _ in range(_STARTS - 1 if rank > 1 else 0):
        yield np.linalg.qr(rng.normal(size=(rank, rank)))[0]


def _smooth_l1(x: Matrix, width: float) -> tuple[float, Matrix]:
    root = np.sqrt(x * x + width * width)
    return float(root.sum()), x / root


def _varimax(x: Matrix) -> tuple[float, Matrix]:
    square = x * x
    centred = square - square.mean(0)
    return -float((centred * square).sum()) / 4, -x * centred


def _spike_and_slab(narrow: Matrix, wide: Matrix, share: float) -> Loss:
    """Return minus the log marginal likelihood of posterior means, up to a constant."""

    def loss(x: Matrix) -> tuple[float, Matrix]:
        log_odds = logit(share) + log_bayes_factor(x, narrow, wide)
        at_zero = expit(-log_odds)
        spike = -(np.log(narrow) + x * x / narrow) / 2
        both = spike + np.logaddexp(0, log_odds)
        return -float(both.sum()), x * (at_zero / narrow + (1 - at_zero) / wide)

    return loss


def _descended(values: Matrix, turn: Matrix, loss: Loss, n_steps: int = 500) -> Matrix:
    """Return the rotation at which gradient projection converges.

    Steps against the gradient are projected on the orthogonal matrices and halved until the loss
    falls (Jennrich: A simple general procedure for orthogonal rotation, Psychometrika 2001).
    """
    value, slope = loss(values @ turn)
    length = 1.0
    for _ in range(n_steps):
        gradient = values.T @ slope
        inner = turn.T @ gradient
        along = gradient - turn @ (inner + inner.T) / 2
        steepness = float(np.square(along).sum())
        if steepness <= (_TINY * abs(value)) ** 2:
            break
        length *= 2
        for _ in range(40):
            ahead, triangle = np.linalg.qr(turn - length * along)
            ahead = ahead * np.sign(np.diag(triangle))
            lower, slope_ahead = loss(values @ ahead)
            if lower < value - steepness * length / 2:
                break
            length /= 2
        else:
            break
        turn, value, slope = ahead, lower, slope_ahead
    return turn
