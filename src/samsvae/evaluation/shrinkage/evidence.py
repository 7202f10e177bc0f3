"""What is known of effects: what cells show, and what a model predicts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TINY = 1e-12
_MORE_GENES, _MORE_CONDITIONS = 20, 10
"""Of the mean spread, that count with those that there are."""
_ENTRIES = 100_000
"""Pairs of condition and gene that are looked at, at most."""
_SURE = 4.0
"""Standard errors above which squares are more than chance."""


class Shown(NamedTuple):
    """What cells show of conditions, against control."""

    difference: np.ndarray
    """`condition gene`: of means; NaN for a condition without cells to compare."""
    variance: np.ndarray
    """`condition gene`: its squared standard error."""
    n_cells: np.ndarray
    """`condition`."""
    trained_on: np.ndarray
    """`condition`: the share of its cells from which the model has learned."""

    def of(self, rows: np.ndarray) -> Shown:
        """Return those of some conditions."""
        return Shown(*(values[rows] for values in self))

    @property
    def known(self) -> np.ndarray:
        """`condition gene`: whether there is anything."""
        found: np.ndarray = np.isfinite(self.difference) & np.isfinite(self.variance)
        return found & (self.variance > 0) & (self.n_cells > 1)[:, None]


class Predicted(NamedTuple):
    """What a model predicts."""

    effect: np.ndarray
    """`condition gene`."""
    variance: np.ndarray
    """`condition gene`: of its posterior, and the Monte Carlo error of `effect`."""

    def of(self, rows: np.ndarray) -> Predicted:
        """Return those of some conditions."""
        return Predicted(*(values[rows] for values in self))


def some_of(known: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of what is known, `condition gene`; of so many at most, by chance."""
    found = np.flatnonzero(known)
    if len(found) > _ENTRIES:
        found = np.sort(np.random.default_rng(seed).choice(found, _ENTRIES, replace=False))
    return found


def rank_one(residual: np.ndarray, variance: np.ndarray, *, n_steps: int = 200) -> np.ndarray:
    """Return spreads u_c w_g of effects that are seen with noise, `condition gene`.

    EM for residual ~ N(0, u_c w_g + variance); entries with NaN are left out. Each u_c counts some
    genes more, of the mean spread, each w_g some conditions more: few, noisy numbers say little. A
    condition without any is of the mean spread.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> spread = np.outer([1.0, 4.0], np.linspace(1, 2, 400))
    >>> found = rank_one(rng.normal(0, np.sqrt(spread + 0.1)), np.full((2, 400), 0.1))
    >>> bool(abs(np.log(found.mean(1) / spread.mean(1))).max() < 0.2)
    True
    """
    known = np.isfinite(residual) & np.isfinite(variance)
    r, s = np.where(known, residual, 0), np.where(known, variance, 1)
    n_genes, n_conditions = known.sum(1), known.sum(0)
    if not known.any():
        return np.full(r.shape, TINY)
    w = np.ones(r.shape[1])
    excess = np.where(known, r**2 - s, 0)
    # EM does not leave a spread of 0, where errors are taken to be a little too large and but few
    # conditions do anything: these start from their own squares.
    chance = _SURE * np.sqrt(2 * np.where(known, s**2, 0).sum(1))
    own = np.where(excess.sum(1) > chance, excess.sum(1), 0) / np.maximum(n_genes, 1)
    u = np.maximum(own, max(float(excess.sum() / known.sum()), TINY))
    for _ in range(n_steps):
        t = u[:, None] * w
        k = t / (t + s)
        square = np.where(known, (k * r) ** 2 + k * s, 0)
        own = (square / w).sum(1)
        mean = own.sum() / known.sum()
        u = np.maximum((own + _MORE_GENES * mean) / (n_genes + _MORE_GENES), TINY)
        own = (square / u[:, None]).sum(0)
        w = np.maximum((own + _MORE_CONDITIONS) / (n_conditions + _MORE_CONDITIONS), TINY)
    return u[:, None] * w
