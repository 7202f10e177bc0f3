"""A Gaussian prior over rows that says how alike they are, with weights by marginal likelihood.

Rows t are perturbations, columns l what is estimated of each: latent dimensions, or components of
effects. Given estimates y_tl with error variances v_tl,

    u_l ~ N(m_l 1, s_l^2 (sum_j a_j K_j + (1 - sum_j a_j) I)),    y_tl ~ N(u_tl, v_tl),

with K_j the kernel of a source of features, with ones on its diagonal, and sum_j a_j = rho at most
1. Of a kernel a low rank is kept, K_j = F_j F_j' + diag(1 - |f_tj|^2), so that a row without
features is like no other. All is in closed form by Woodbury's identity, in time T q^2 for a total
rank of q:

    A = D + s^2 G G',  D = s^2 (1 - sum_j a_j |f_tj|^2) + v,  G = [a_j^(1/2) F_j]_j.

The weights a are averaged over candidates (each source, and sources together, at each rho of a
grid, and none) by their marginal likelihood, in which s_l is averaged over a grid and m_l is flat:
of features that say nothing, rho stays close to 0, which is the prior without features.

References
----------
Rasmussen, Williams: Gaussian processes for machine learning, MIT Press 2006, equations 2.42 to 2.45
(a mean with a flat prior) and 5.12 (leaving one out).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import logsumexp

Matrix: TypeAlias = NDArray[np.float64]

_RHO = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
_SCALES = np.geomspace(0.05, 30, 14)
"""Variances s^2, in units of the mean square of the estimates."""
_ALL_SUBSETS = 4
"""Sources up to which all subsets of them are candidates; of more, each alone and all together."""
_MAX_ROWS = 300
"""Rows, at random, from which weights are estimated: more take longer without changing them."""
_TINY = 1e-12


class Estimates(NamedTuple):
    """Estimates of each row, and their error variances, `row column` each."""

    value: Matrix
    variance: Matrix

    def of(self, rows: NDArray[np.int_]) -> Estimates:
        """Return those of some rows."""
        return Estimates(self.value[rows], self.variance[rows])


class KernelPrior(NamedTuple):
    """The parameters of the prior."""

    weights: Matrix
    """`source`: a_j."""
    square: Matrix
    """`column`: s_l^2."""
    log_evidence: float
    """Nats: log marginal likelihood, less that of the prior without features."""

    @property
    def rho(self) -> float:
        """The share of variance that features may explain."""
        return float(self.weights.sum())


def fitted_prior(estimates: Estimates, factors: Sequence[Matrix], *, seed: int = 0) -> KernelPrior:
    """Return the prior, with weights averaged over candidates by marginal likelihood.

    `factors`, `row rank` each, are F_j, with rows of length at most 1. Fewer than three rows say
    nothing about weights: they are 0.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> group = np.eye(10)[np.arange(40) % 10]
    >>> value = group @ rng.normal(size=(10, 3)) + 0.1 * rng.normal(size=(40, 3))
    >>> estimates = Estimates(value, np.full((40, 3), 0.01))
    >>> fitted_prior(estimates, [group]).rho > 0.9
    True
    >>> bool(fitted_prior(estimates, [rng.permutation(group)]).rho < 0.1)
    True
    """
    n_rows = len(estimates.value)
    rows = np.arange(n_rows)
    if n_rows > _MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(n_rows, _MAX_ROWS, replace=False))
    own, some = estimates.of(rows), [_narrow(factor[rows]) for factor in factors]
    candidates, odds = _candidates(len(factors) if n_rows > 2 else 0, len(factors))
    grid = np.mean(np.square(own.value), axis=0) * _SCALES[:, None] + _TINY
    of_grid = np.array(
        [
            [[c.log_evidence for c in _columns(own, some, weights, square)] for square in grid]
            for weights in candidates
        ]
    )  # candidate scale column
    evidence = (logsumexp(of_grid, 1) - np.log(len(grid))).sum(1)
    joint = evidence + np.log(odds)
    share = np.exp(joint - logsumexp(joint))
    of_scale = np.exp(of_grid - logsumexp(of_grid, 1, keepdims=True))
    square = np.exp(np.einsum("c,csl,sl->l", share, of_scale, np.log(grid)))
    gain = float(logsumexp(joint) - np.log(odds.sum()) - evidence[0])
    return KernelPrior(share @ candidates, square, gain)


def _narrow(factor: Matrix) -> Matrix:
    """Return a factor of the same kernel with no more columns than rows."""
    if factor.shape[1] <= factor.shape[0]:
        return factor
    return np.asarray(np.linalg.qr(factor.T, mode="r")).T


def _candidates(n_used: int, n_sources: int) -> tuple[Matrix, Matrix]:
    """Return weights, `candidate source`, none first, and the prior odds of each, `candidate`.

    Each source alone is as probable as none, whatever other sources there are, and so are all sums
    of several together: one more source that says nothing does not take from the others.
    """
    sums = [size for size in range(2, n_used + 1) if n_used <= _ALL_SUBSETS or size == n_used]
    several = [chosen for size in sums for chosen in combinations(range(n_used), size)]
    weights, odds = [np.zeros(n_sources)], [1.0]
    for chosen in [*((j,) for j in range(n_used)), *several]:
        for rho in _RHO:
            own = np.zeros(n_sources)
            own[list(chosen)] = rho / len(chosen)
            weights.append(own)
            odds.append(1 / len(_RHO) / (1 if len(chosen) == 1 else len(several)))
    return np.array(weights), np.array(odds)


def _columns(
    estimates: Estimates, factors: Sequence[Matrix], weights: Matrix, square: Matrix
) -> list[_Column]:
    """Return the marginal distribution of each column."""
    used, explained = weighted(factors, weights, len(estimates.value))
    parts = zip(estimates.value.T, estimates.variance.T, square, strict=True)
    return [_Column(y, v, float(own), used, explained) for y, v, own in parts]


class _Column:
    """The marginal distribution of the estimates of one column, N(m 1, D + s^2 G G')."""

    def __init__(
        self, value: Matrix, variance: Matrix, square: float, used: Matrix, explained: Matrix
    ) -> None:
        self.value, self.square, self.used = value, square, used
        """`row`: y; s^2; and G, `row rank`."""
        self.diagonal = square * (1 - explained) + variance
        """`row`: D."""

    @cached_property
    def _factor(self) -> tuple[Matrix, bool]:
        """Cholesky factor of C = I / s^2 + G' D^-1 G."""
        inner = self.used.T @ (self.used / self.diagonal[:, None])
        factor: tuple[Matrix, bool] = cho_factor(
            inner + np.eye(len(inner)) / self.square, lower=True
        )
        return factor

    def solve(self, values: Matrix) -> Matrix:
        """Return A^-1 times values, `row ...`."""
        diagonal = self.diagonal.reshape(-1, *(1,) * (values.ndim - 1))
        scaled = values / diagonal
        if not self.used.shape[1]:
            return scaled
        inner = cho_solve(self._factor, self.used.T @ scaled)
        solved: Matrix = scaled - (self.used @ inner) / diagonal
        return solved

    @cached_property
    def solved_ones(self) -> Matrix:
        """A^-1 1, `row`."""
        return self.solve(np.ones_like(self.value))

    @cached_property
    def mean(self) -> float:
        """The estimate of m by generalised least squares."""
        return float(self.solved_ones @ self.value / self.solved_ones.sum())

    @cached_property
    def residual(self) -> Matrix:
        """A^-1 (y - m 1), `row`."""
        return self.solve(self.value - self.mean)

    @property
    def log_evidence(self) -> float:
        """The log marginal likelihood with a flat prior of m, but for a constant."""
        log_det = float(np.log(self.diagonal).sum() + np.log(self.solved_ones.sum()))
        if self.used.shape[1]:
            log_det += 2 * float(np.log(np.diag(self._factor[0])).sum())
            log_det += self.used.shape[1] * float(np.log(self.square))
        return -0.5 * (float(self.residual @ (self.value - self.mean)) + log_det)

    @cached_property
    def precision(self) -> Matrix:
        """Diagonal of A^-1 - A^-1 1 1' A^-1 / 1' A^-1 1, `row`: that of y given the others."""
        inverse = 1 / self.diagonal
        if self.used.shape[1]:
            half = solve_triangular(self._factor[0], (self.used * inverse[:, None]).T, lower=True)
            inverse = inverse - np.square(half).sum(0)
        return np.maximum(inverse - self.solved_ones**2 / self.solved_ones.sum(), _TINY)

    def half(self, used: Matrix) -> Matrix:
        """Return H of other rows, whose posterior covariance is H H' and what is their own."""
        if not self.used.shape[1]:
            return used
        solved: Matrix = solve_triangular(self._factor[0], used.T, lower=True).T
        return solved

    def new(self, used: Matrix, explained: Matrix) -> tuple[Matrix, Matrix]:
        """Return mean and variance of other rows, of which nothing is estimated, `row` each.

        `used`, `row rank`, is G of these rows, `explained` its squared length.
        """
        from_mean = np.ones(len(used))
        mean, variance = np.full(len(used), self.mean), self.square * (1 - explained)
        if self.used.shape[1]:
            mean += self.square * (used @ (self.used.T @ self.residual))
            half = solve_triangular(self._factor[0], used.T, lower=True)
            variance += np.square(half).sum(0)
            from_mean -= self.square * (used @ (self.used.T @ self.solved_ones))
        return mean, variance + from_mean**2 / self.solved_ones.sum()


def weighted(factors: Sequence[Matrix], weights: Matrix, n_rows: int) -> tuple[Matrix, Matrix]:
    """Return [a_j^(1/2) F_j]_j, `row rank`, of the sources in use, and its squared norm, `row`."""
    used = [np.sqrt(a) * factor for a, factor in zip(weights, factors, strict=True) if a > 0]
    scaled = np.concatenate([np.zeros((n_rows, 0)), *used], 1)
    return scaled, np.minimum(np.square(scaled).sum(1), 1)


class RowPosterior(NamedTuple):
    """What is known of some rows, `row column` each."""

    mean: Matrix
    variance: Matrix

    @classmethod
    def _stacked(cls, columns: Sequence[tuple[Matrix, Matrix]], n_rows: int) -> RowPosterior:
        stacked = np.array(columns).reshape(len(columns), 2, n_rows)
        return cls(stacked[:, 0].T, stacked[:, 1].T)


class KernelPosterior:
    """What the prior and the estimates of some rows say of these and of others."""

    def __init__(self, prior: KernelPrior, estimates: Estimates, factors: Sequence[Matrix]) -> None:
        self.prior, self._estimates, self._factors = prior, estimates, factors
        self._columns = _columns(estimates, factors, prior.weights, prior.square)

    @property
    def _n_rows(self) -> int:
        return len(self._estimates.value)

    def own(self) -> RowPosterior:
        """Return the posterior of the rows themselves, given all estimates."""
        found = []
        for column, v in zip(self._columns, self._estimates.variance.T, strict=True):
            variance = np.maximum(v - v**2 * column.precision, 0)
            found.append((column.value - v * column.residual, variance))
        return RowPosterior._stacked(found, self._n_rows)

    def left_out(self) -> RowPosterior:
        """Return the posterior of each row given the others alone (equation 5.12)."""
        found = []
        for column, v in zip(self._columns, self._estimates.variance.T, strict=True):
            mean = column.value - column.residual / column.precision
            found.append((mean, np.maximum(1 / column.precision - v, 0)))
        return RowPosterior._stacked(found, self._n_rows)

    def new(self, factors: Sequence[Matrix]) -> RowPosterior:
        """Return the posterior of other rows, given their factors."""
        n_rows = len(factors[0]) if factors else 0
        used, explained = weighted(factors, self.prior.weights, n_rows)
        found = [column.new(used, explained) for column in self._columns]
        return RowPosterior._stacked(found, n_rows)

    def joint(self, factors: Sequence[Matrix]) -> list[tuple[Matrix, Matrix]]:
        """Return the posterior covariance of other rows, by column: H H' + diag(d).

        H is `row rank`, d `row`; without what is not known of a mean that all have in common.
        """
        used, explained = weighted(factors, self.prior.weights, len(factors[0]))
        return [
            (column.half(used), column.square * (1 - explained) + _TINY) for column in self._columns
        ]

    def smoother(self, factors: Sequence[Matrix], share: Matrix) -> Matrix:
        """Return the weights of estimates in the mean of other rows, `new row`.

        Averaged over columns by their `share`; those of a mean that all have in common left out.
        """
        used, _ = weighted(factors, self.prior.weights, len(factors[0]))
        total = np.zeros((len(used), self._n_rows))
        for column, of_column in zip(self._columns, share, strict=True):
            total += of_column * column.square * (column.solve(column.used @ used.T)).T
        return total
