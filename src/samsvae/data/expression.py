"""Expression of cells on a scale, and its means over groups of them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from samsvae.data.screen import Screen
from samsvae.types import SCALE_SIZE, Scale


def expression(screen: Screen, scale: Scale = "log") -> sp.csr_matrix:
    """Return the expression of a screen's cells on a scale, see `normalised`."""
    return normalised(screen.counts, scale)


def normalised(counts: sp.csr_matrix, scale: Scale) -> sp.csr_matrix:
    """Return counts on a scale, `cell gene`, sparse.

    "normalized": 1e4 x / sum x, the sum over these genes; "log": log2(1 + that); "mean": x as it
    is.

    Examples
    --------
    >>> counts = sp.csr_matrix([[1, 3]])
    >>> normalised(counts, "normalized").toarray()
    array([[2500., 7500.]])
    """
    values = counts.astype(np.float64)
    if scale == "mean":
        return values
    total = np.maximum(np.asarray(values.sum(1)).ravel(), 1)
    values.data *= SCALE_SIZE / np.repeat(total, np.diff(values.indptr))
    if scale == "log":
        values.data = np.log2(1 + values.data)
    return values


def group_means(values: sp.csr_matrix, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the mean of the cells of each group, `group gene`; NaN for an empty one."""
    n_cells = len(group)
    member = sp.csr_matrix((np.ones(n_cells), (group, np.arange(n_cells))), (n_groups, n_cells))
    cells = np.bincount(group, minlength=n_groups)[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0
        means: np.ndarray = (member @ values).toarray() / cells
    return means
