"""Differential expression of the data: what effects are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.screen import Screen
from samsvae.errors import InputError

SCALE_SIZE = 1e4
"""Counts that a cell's expression is scaled to, before the logarithm."""


def log_expression(screen: Screen) -> sp.csr_matrix:
    """Return log2(1 + 1e4 x / sum x), `cell gene`, sparse; sum x over these genes."""
    counts = screen.counts.astype(np.float64)
    total = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    counts.data = np.log2(1 + SCALE_SIZE * counts.data / np.repeat(total, np.diff(counts.indptr)))
    return counts


def differential_expression(
    screen: Screen, conditions: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the difference of mean log expression between conditions and control.

    DE = mean over the condition's cells of log2(1 + 1e4 x / sum x) - the same over control cells.

    Parameters
    ----------
    screen
        The cells, say `screen.test`.
    conditions
        Which; by default all that occur in the screen, but for control.

    Returns
    -------
    Conditions x genes, log2. A condition without cells is a row of NaN.

    Raises
    ------
    InputError
        If the screen holds no control cells.
    """
    if not screen.is_control.any():
        raise InputError("no control cells to compare with in these cells")
    names = screen.conditions if conditions is None else conditions
    control = screen.condition_names[0]
    names = [name for name in names if name != control]
    position = {name: i for i, name in enumerate(screen.condition_names)}
    shape = (len(screen.condition_names), len(screen))
    member = sp.csr_matrix(
        (np.ones(len(screen)), (screen.condition, np.arange(len(screen)))), shape
    )
    sums = (member @ log_expression(screen)).toarray()
    n_cells = np.bincount(screen.condition, minlength=shape[0])[:, None]
    with np.errstate(invalid="ignore"):
        means = sums / n_cells
    nothing = np.full(len(screen.genes), np.nan)
    rows = [means[position[n]] - means[0] if n in position else nothing for n in names]
    table = np.array(rows).reshape(len(names), len(screen.genes))
    return pd.DataFrame(
        table, pd.Index(names, name="condition"), pd.Index(screen.genes, name="gene")
    )
