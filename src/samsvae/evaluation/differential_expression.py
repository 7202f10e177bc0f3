"""Differential expression of the data: what effects are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.model.likelihood import SCALE_SIZE
from samsvae.types import Scale


def expression(screen: Screen, scale: Scale = "log") -> sp.csr_matrix:
    """Return the expression of a screen's cells on a scale, see `normalised`."""
    return normalised(screen.counts, scale)


def normalised(counts: sp.csr_matrix, scale: Scale) -> sp.csr_matrix:
    """Return counts on a scale, `cell gene`, sparse.

    "normalized": 1e4 x / sum x, the sum over these genes; "log": log2(1 + that); "mean": x as it
    is.
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


def differential_expression(
    screen: Screen,
    conditions: Sequence[str] | None = None,
    *,
    scale: Scale = "log",
) -> pd.DataFrame:
    """Return the difference of mean expression between conditions and control.

    DE = mean over the condition's cells of log2(1 + 1e4 x / sum x) - the same over control cells.

    Parameters
    ----------
    screen
        The cells, say `screen.test`.
    conditions
        Which; by default all that occur in the screen, but for control.
    scale
        "log"; "normalized": 1e4 x / sum x without the logarithm; "mean": x as it is.

    Returns
    -------
    Conditions x genes, on the scale. A condition without cells is a row of NaN.

    Raises
    ------
    InputError
        If the screen holds no control cells.
    """
    if not screen.is_control.any():
        raise InputError("no control cells to compare with in these cells")
    control = screen.condition_names[0]
    asked = screen.conditions if conditions is None else conditions
    names = [name for name in asked if name != control]
    means = group_means(expression(screen, scale), screen.condition, len(screen.condition_names))
    difference = pd.DataFrame(
        means - means[0],
        pd.Index(screen.condition_names, name="condition"),
        pd.Index(screen.genes, name="gene"),
    )
    return difference.reindex(names)
