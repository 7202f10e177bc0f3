"""Effects of perturbations from those of the conditions that hold them, by least squares.

Y (`condition gene`) are effects of conditions, X (`condition perturbation`) their dosage, and N
their numbers of cells, by which they are weighted:

    B = argmin sum_c N_c |Y_c - X_c B|^2 + penalty |B|^2 = (X' N X + penalty I)^-1 X' N Y.

A penalty is in cells: it acts as so many cells without an effect (at the root mean square of a
perturbation's doses), and shrinks the effect of a single perturbation with n cells by n / (n +
penalty). There is no intercept: the effect of a combination is the sum of those of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh
from scipy.sparse.linalg import splu

_ROUNDING = 1e-10
"""A principal component of a smaller share of the largest one's variance is not used."""
NEGLIGIBLE = 1e-6
"""Cells: a penalty that only selects, of the coefficients that fit alike, the smallest."""


def least_squares(
    design: sp.csr_matrix, n_cells: np.ndarray, effects: np.ndarray, penalty: float = NEGLIGIBLE
) -> np.ndarray:
    """Return B, `perturbation gene`.

    >>> design = sp.csr_matrix([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])
    >>> least_squares(design, np.ones(3), np.array([[1.0], [3], [5]])).round(3).ravel()
    array([1., 2., 5.])
    """
    weighted = design.multiply(np.asarray(n_cells, float)[:, None]).tocsr()
    gram = weighted.T @ design
    received = np.asarray(weighted.astype(bool).T @ n_cells, float)
    square = np.divide(gram.diagonal(), received, out=np.ones_like(received), where=received > 0)
    gram = gram + penalty * sp.diags(square)
    solved: np.ndarray = splu(gram.tocsc()).solve(np.asarray(weighted.T @ effects))
    return solved


class WeightedEffects(NamedTuple):
    """Effects of some conditions, and what they count for."""

    design: sp.csr_matrix
    """`condition perturbation`: the doses."""
    n_cells: np.ndarray
    """`condition`."""
    effects: np.ndarray
    """`condition gene`."""
    weight: np.ndarray
    """`condition gene`: how much squared errors count, by number of cells or precision."""


class PrincipalRidge(NamedTuple):
    """Ridge regression in the first principal components of the effects."""

    coefficients: np.ndarray
    """`perturbation component`."""
    components: np.ndarray
    """`component gene`."""
    penalty: float
    """In cells."""

    def predict(self, design: sp.csr_matrix) -> np.ndarray:
        """Return the effects of conditions, `condition gene`."""
        predicted: np.ndarray = design @ self.coefficients @ self.components
        return predicted


def fit_ridge(
    train: WeightedEffects,
    valid: WeightedEffects | None,
    *,
    penalties: Sequence[float],
    n_components: Sequence[int],
    default_penalty: float,
) -> PrincipalRidge:
    """Return the fit to training conditions with the smallest weighted error on validation cells.

    Principal components are of all training conditions, weighted by number of cells, and of genes
    in units of their typical precision. Without validation cells, as many components as there may
    be are used with the default penalty.
    """
    weight = train.weight.mean(0)
    scale = np.sqrt(weight / weight.mean()) if weight.any() else np.ones_like(weight)
    scaled = train.effects * scale
    components = _principal_components(np.sqrt(train.n_cells)[:, None] * scaled, max(n_components))
    scores = scaled @ components.T
    back = np.divide(components, scale, out=np.zeros_like(components), where=scale > 0)

    def fits(penalties: Sequence[float]) -> Iterator[PrincipalRidge]:
        for penalty in penalties:
            coefficients = least_squares(train.design, train.n_cells, scores, penalty)
            for k in sorted({min(k, len(components)) for k in n_components}, reverse=True):
                yield PrincipalRidge(coefficients[:, :k], back[:k], penalty)

    if valid is None or not valid.weight.any():
        return next(fits([default_penalty]))
    return min(fits(penalties), key=partial(_error, valid=valid))


def _principal_components(values: np.ndarray, n_components: int) -> np.ndarray:
    """Return the first principal axes, `component column`, without centring.

    Fewer where the values have a lower rank.
    """
    is_wide = values.shape[0] <= values.shape[1]
    products = values @ values.T if is_wide else values.T @ values
    size = len(products)
    squares, vectors = eigh(products, subset_by_index=[max(0, size - n_components), size - 1])
    order = np.flatnonzero(squares > _ROUNDING * squares[-1])[::-1]
    axes = vectors[:, order].T
    return axes @ values / np.sqrt(squares[order])[:, None] if is_wide else axes


def _error(fit: PrincipalRidge, valid: WeightedEffects) -> float:
    """Return the weighted sum of squared errors."""
    return float((valid.weight * (fit.predict(valid.design) - valid.effects) ** 2).sum())
