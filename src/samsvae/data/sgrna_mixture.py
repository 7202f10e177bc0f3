"""Which sgRNAs a cell holds, by their counts: a mixture of background and signal, by EM.

The count y of sgRNA g in cell i is negative binomial,

    background: mean a_i b_g                      signal: mean a_i b_g + s_g

a_i the ambient size of the cell (mean 1), b_g the ambient profile, s_g the signal; each of the two
has an inverse dispersion per sgRNA, shrunk to that of all. An sgRNA is in a share pi_g of cells,
independently of the others, so any number of them may be in one cell. All sgRNAs are fitted
together: what is background in a cell, all its sgRNAs say.

An sgRNA without a count in a cell is taken to be absent, so the cost is that of the counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import gammaln

_ROUNDS = 200
_TOLERANCE = 1e-3
"""Largest change of a posterior at which EM ends."""
_PRIOR_COUNTS = 20.0
"""Weight of the mean of all cells in a cell's ambient size, in expected counts."""
_PRIOR_CELLS = 10.0
"""Weight, in cells, of what all sgRNAs share in the estimates of one."""
_DISPERSIONS = 0.3, 1e3
"""Range of inverse dispersions; the signal's is not so small that one count is its most likely."""
_LEAST_SIGNAL = 3.0
"""Counts from which an sgRNA may be in a cell when EM starts, and the least signal."""
_FIRST_SHARE = 0.05
"""Of the cell's largest count, from which it may."""


class SgrnaMixture(NamedTuple):
    """The posterior of presence, and what it was computed with."""

    probability: sp.csr_matrix
    """`cell sgrna`: posterior probability that the sgRNA is in the cell; in the places of the
    counts."""
    share: np.ndarray
    """pi, `sgrna`: share of cells with it."""
    signal: np.ndarray
    """s, `sgrna`, UMIs."""
    ambient: np.ndarray
    """b, `sgrna`, UMIs in a cell of mean ambient size."""
    ambient_size: np.ndarray
    """a, `cell`: of mean 1."""


def sgrna_mixture(counts: sp.csr_matrix) -> SgrnaMixture:
    """Return the posterior of presence of each sgRNA in each cell, given counts `cell sgrna`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> holds = np.arange(3) == rng.integers(0, 3, 400)[:, None]
    >>> counts = rng.poisson(0.5 + 30 * holds)
    >>> probability = sgrna_mixture(sp.csr_matrix(counts)).probability.toarray()
    >>> bool(((probability > 0.5) == holds).all())
    True
    """
    counts = sp.csr_matrix(counts, dtype=np.float64)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    n_cells, n_sgrnas = counts.shape
    y, of_sgrna = counts.data, counts.indices
    of_cell = np.repeat(np.arange(n_cells), np.diff(counts.indptr))
    q = _first(counts, of_cell)
    # Counts of an sgRNA are few numbers, for which alone gamma functions are computed.
    largest = int(y.max(initial=0)) + 2
    pairs, place = np.unique(
        of_sgrna.astype(np.int64) * largest + y.astype(np.int64), return_inverse=True
    )
    of_pair, y_of_pair = np.divmod(pairs, largest)

    def log_gamma(theta: np.ndarray) -> np.ndarray:
        values: np.ndarray = gammaln(y_of_pair + theta[of_pair]) - gammaln(theta[of_pair])
        return values[place]

    def by_sgrna(values: np.ndarray) -> np.ndarray:
        return np.bincount(of_sgrna, values, minlength=n_sgrnas)

    def by_cell(values: np.ndarray) -> np.ndarray:
        return np.bincount(of_cell, values, minlength=n_cells)

    size = np.ones(n_cells)
    for _ in range(_ROUNDS):
        # Background: sizes and profile in turn, each by the counts that are not signal.
        rest = (1 - q) * y
        absent = np.maximum(size.sum() - by_sgrna(q * size[of_cell]), 1e-9)
        ambient = by_sgrna(rest) / absent
        expected = np.maximum(ambient.sum() - by_cell(q * ambient[of_sgrna]), 0)
        size = (by_cell(rest) + _PRIOR_COUNTS) / (expected + _PRIOR_COUNTS)
        size /= max(size.mean(), 1e-9)
        background = np.maximum(size[of_cell] * ambient[of_sgrna], 1e-9)
        # Signal, above it.
        n_present = by_sgrna(q)
        excess = by_sgrna(q * np.maximum(y - background, 0))
        typical = max(excess.sum() / max(n_present.sum(), 1e-9), _LEAST_SIGNAL)
        signal = (excess + typical * _PRIOR_CELLS) / (n_present + _PRIOR_CELLS)
        signal = np.maximum(signal, _LEAST_SIGNAL)
        mean = background + signal[of_sgrna]
        # Inverse dispersions, by moments; places without a count are background.
        of_zeros = np.maximum(ambient**2 * (size**2).sum() - by_sgrna(background**2), 0)
        squares = by_sgrna((1 - q) * background**2) + of_zeros
        variance = by_sgrna((1 - q) * ((y - background) ** 2)) + of_zeros
        low = _inverse_dispersion(squares, variance - ambient * absent, ambient**2)
        variance = by_sgrna(q * ((y - mean) ** 2 - mean))
        high = _inverse_dispersion(by_sgrna(q * mean**2), variance, signal**2)
        share = np.clip((n_present + 0.5) / (n_cells + 1), 1e-6, 1 - 1e-6)
        log_odds = (
            np.log(share / (1 - share))[of_sgrna]
            + log_gamma(high)
            + _log_terms(y, mean, high[of_sgrna])
            - log_gamma(low)
            - _log_terms(y, background, low[of_sgrna])
        )
        # Below its background an sgRNA is no likelier to be there, whatever the tails say.
        log_odds = np.where(y > background, log_odds, np.minimum(log_odds, -20.0))
        before, q = q, 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
        if not len(q) or np.abs(q - before).max() < _TOLERANCE:
            break
    probability = sp.csr_matrix((q, counts.indices, counts.indptr), shape=counts.shape)
    return SgrnaMixture(probability, share, signal, ambient, size)


def _first(counts: sp.csr_matrix, of_cell: np.ndarray) -> np.ndarray:
    """Return presence to start from: of sgRNAs with some counts next to the cell's largest."""
    largest = np.asarray(counts.max(1).todense()).ravel()[of_cell]
    is_first = (counts.data >= _LEAST_SIGNAL) & (counts.data >= _FIRST_SHARE * largest)
    return np.where(is_first, 0.99, 0.001)


def _inverse_dispersion(squares: np.ndarray, excess: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return mu^2 / (variance - mu), by sgRNA, shrunk to that of all of them together.

    `squares` are sums of mu^2, `excess` of the variance above mu, `unit` of the mu^2 of one cell.
    """
    dispersion = max(excess.sum(), 0.0) / max(squares.sum(), 1e-9)
    weight = _PRIOR_CELLS * unit
    own = (np.maximum(excess, 0) + weight * dispersion) / np.maximum(squares + weight, 1e-12)
    return 1 / np.clip(own, 1 / _DISPERSIONS[1], 1 / _DISPERSIONS[0])


def _log_terms(y: np.ndarray, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return the negative binomial's log probability without gamma functions, nats."""
    total = theta + mean
    return theta * np.log(theta / total) + y * np.log(mean / total)
