"""How large a share of cells responds, given how much each cell's data speak for it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_GRID = 2001
"""Values of pi, equally far apart: finer than the posterior of any number of cells of a screen."""
_CHUNK = 1000
"""Cells at once."""


class Rates(NamedTuple):
    """The posterior of pi, `group` each."""

    mean: np.ndarray
    lower: np.ndarray
    """End of the central 90 % interval."""
    upper: np.ndarray
    log_bayes_factor: np.ndarray
    """Nats: for some cells responding, against none."""
    n_cells: np.ndarray


def response_rates(log_odds: np.ndarray, group: np.ndarray, n_groups: int) -> Rates:
    """Return the posterior of the share pi of cells that respond, for pi ~ Beta(1, 1), by group.

    p(pi | x) is proportional to prod_i (pi B_i + 1 - pi), B_i the Bayes factor of a cell
    (`log_odds`: log B_i, `cell`, nats): exact up to a grid of 2,001 values of pi. A group without
    cells keeps its prior.

    Examples
    --------
    >>> rates = response_rates(np.full(9, 50.0), np.zeros(9, int), 2)  # nine sure responders
    >>> rates.mean.round(3).tolist(), rates.n_cells.tolist()  # of Beta(10, 1), and of Beta(1, 1)
    ([0.909, 0.5], [9, 0])
    """
    pi = (np.arange(_GRID) + 0.5) / _GRID
    log_pi, log_rest = np.log(pi), np.log1p(-pi)
    log_density = np.zeros((n_groups, _GRID))
    order = np.argsort(group, kind="stable")
    n_cells = np.bincount(group, minlength=n_groups)
    for one, cells in enumerate(np.split(order, np.cumsum(n_cells)[:-1])):
        for start in range(0, len(cells), _CHUNK):
            odds = log_odds[cells[start : start + _CHUNK], None]
            log_density[one] += np.logaddexp(log_pi + odds, log_rest).sum(0)
    largest = log_density.max(1)
    share = np.exp(log_density - largest[:, None])
    total = largest + np.log(share.sum(1))
    share /= share.sum(1, keepdims=True)
    cumulative = np.cumsum(share, 1)
    lower, upper = (pi[np.argmax(cumulative >= level, axis=1)] for level in (0.05, 0.95))
    return Rates(share @ pi, lower, upper, total - np.log(_GRID), n_cells)
