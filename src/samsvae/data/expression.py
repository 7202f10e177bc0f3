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


def group_sums(
    values: sp.csr_matrix, group: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum over the cells of each group, `group gene`, and how many these are."""
    n_cells = len(group)
    member = sp.csr_matrix((np.ones(n_cells), (group, np.arange(n_cells))), (n_groups, n_cells))
    return (member @ values).toarray(), np.bincount(group, minlength=n_groups)


def group_means(values: sp.csr_matrix, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the mean of the cells of each group, `group gene`; NaN for an empty one."""
    sums, n_cells = group_sums(values, group, n_groups)
    with np.errstate(invalid="ignore"):  # 0 / 0
        means: np.ndarray = sums / n_cells[:, None]
    return means


def shares_of_batches(group: np.ndarray, batch: np.ndarray, n_groups: int) -> np.ndarray:
    """Return how the cells of each group are spread over batches, `group batch`; rows sum to 1.

    A cell of group -1 counts nowhere; a group without cells is a row of NaN.
    """
    n_cells = np.zeros((n_groups, int(batch.max(initial=0)) + 1))
    known = group >= 0
    np.add.at(n_cells, (group[known], batch[known]), 1)
    with np.errstate(invalid="ignore"):  # 0 / 0
        shares: np.ndarray = n_cells / n_cells.sum(1, keepdims=True)
    return shares


def differences_from_control(
    values: sp.csr_matrix, condition: np.ndarray, batch: np.ndarray, n_conditions: int
) -> np.ndarray:
    """Return the mean of each condition's cells - that of control, `condition gene`.

    Within batches: the control of a condition are the means of control cells in its batches,
    weighted as its cells are. Cells in batches without control cells cannot be compared, and are
    left out; NaN for a condition without others.

    Parameters
    ----------
    values
        `cell gene`, sparse.
    condition
        `cell`: 0 for control.
    batch
        `cell`.
    n_conditions
        Number of conditions, control among them.
    """
    control = condition == 0
    with_control = np.isin(batch, np.unique(batch[control]))
    rows = np.flatnonzero(with_control)
    group, batches = condition[rows], batch[rows]
    n_batches = int(batch.max(initial=0)) + 1
    of_batch = np.nan_to_num(group_means(values[control], batch[control], n_batches))
    shares = shares_of_batches(group, batches, n_conditions)
    shares = np.pad(shares, ((0, 0), (0, n_batches - shares.shape[1])))
    means: np.ndarray = group_means(values[rows], group, n_conditions) - shares @ of_batch
    return means
