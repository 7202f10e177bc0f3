"""How far effects are from what a model predicts, beyond its posterior: learned from other cells.

The decoder and the encoder are point estimates, and the model is one of many: the posterior over
masks and embeddings is too narrow. With r the difference of observed effects from predicted ones in
validation cells, s^2 its squared standard error, v the posterior variance and m the prediction,

    r_cg ~ N(0, u_c w_g + b m_cg^2 + v_cg + s_cg^2).

Validation cells are of the same replicates (clones, say) as training cells, and do not show by how
much other replicates differ: that variance is added to u_c w_g.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

TINY = 1e-12
"""A variance of nothing."""
_PRIOR_GENES, _PRIOR_CONDITIONS = 20, 10
"""Pseudo-observations at the mean spread, for each condition and each gene."""
_CLEAR = 4.0
"""Standard errors above which squares are more than noise."""


class Spread(NamedTuple):
    """Variances of rank one."""

    of_condition: np.ndarray
    """u, `condition`."""
    of_gene: np.ndarray
    """w, `gene`, with mean about 1."""

    @property
    def variance(self) -> np.ndarray:
        """u_c w_g, `condition gene`."""
        return self.of_condition[:, None] * self.of_gene

    def plus(self, variance: np.ndarray) -> Spread:
        """Return variances of rank one that have the means of these plus others."""
        total = self.variance + variance
        of_gene = total.mean(0)
        return Spread(total.mean(1), of_gene / max(float(of_gene.mean()), TINY))


def fitted_discrepancy(
    residual: np.ndarray, noise: np.ndarray, effect: np.ndarray
) -> tuple[Spread, float]:
    """Return u and w, and b, of observed effects about predictions m, `condition gene` each.

    `noise` is the squared standard error of observed effects plus the model's own variance; entries
    with NaN, or infinite noise, are left out.
    """
    known = np.isfinite(residual) & np.isfinite(noise)
    if not known.any():
        return rank_one(residual, noise), 0.0
    r, s, m = (values[known] for values in (residual**2, noise, effect**2))

    def loss(parameters: np.ndarray) -> float:
        total = np.exp(parameters[0]) + np.exp(parameters[1]) * m + s
        return float((np.log(total) + r / total).sum() / 2)

    best = minimize(loss, [-5.0, -3.0], method="L-BFGS-B", bounds=[(-20, 5), (-20, 2)])
    common, slope = np.exp(best.x)
    return rank_one(residual, noise, least=float(common)), float(slope)


def rank_one(
    residual: np.ndarray, variance: np.ndarray, *, least: float = TINY, n_steps: int = 200
) -> Spread:
    """Return variances u_c w_g of effects that are observed with noise, `condition gene`.

    EM for residual ~ N(0, u_c w_g + variance); entries with NaN are left out. Each u_c gets some
    pseudo-genes of the mean spread, each w_g some pseudo-conditions, which stabilise spreads of
    few, noisy numbers; a condition without any has the mean spread. EM starts from `least` or more.

    >>> rng = np.random.default_rng(0)
    >>> spread = np.outer([1.0, 4.0], np.linspace(1, 2, 400))
    >>> fitted = rank_one(rng.normal(0, np.sqrt(spread + 0.1)), np.full((2, 400), 0.1)).variance
    >>> bool(abs(np.log(fitted.mean(1) / spread.mean(1))).max() < 0.2)
    True
    """
    is_observed = np.isfinite(residual) & np.isfinite(variance)
    r, s = np.where(is_observed, residual, 0), np.where(is_observed, variance, 1)
    n_genes, n_conditions = is_observed.sum(1), is_observed.sum(0)
    if not is_observed.any():
        return Spread(np.full(len(r), TINY), np.ones(r.shape[1]))
    w = np.ones(r.shape[1])
    excess = np.where(is_observed, r**2 - s, 0)
    # EM does not leave a spread of 0, where errors are a little overestimated and only few
    # conditions have effects: these start from their own squares.
    noise = _CLEAR * np.sqrt(2 * np.where(is_observed, s**2, 0).sum(1))
    own = np.where(excess.sum(1) > noise, excess.sum(1), 0) / np.maximum(n_genes, 1)
    precision = np.where(is_observed, s**-2, 0)
    common = (precision * excess).sum() / precision.sum()
    u = np.maximum(own, max(float(common), least))
    r_squared, of_observed = r**2, is_observed.astype(float)
    for _ in range(n_steps):
        gain = np.outer(u, w)
        gain /= gain + s
        square = gain * r_squared
        square += s
        square *= gain
        square *= of_observed
        own = square @ (1 / w)
        mean = own.sum() / n_genes.sum()
        u = np.maximum((own + _PRIOR_GENES * mean) / (n_genes + _PRIOR_GENES), TINY)
        own = (1 / u) @ square
        w = np.maximum((own + _PRIOR_CONDITIONS) / (n_conditions + _PRIOR_CONDITIONS), TINY)
    return Spread(u, w)
