"""Differential expression of the data: what effects are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from samsvae.data.expression import expression, group_means
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.types import Scale


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

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
    >>> table = differential_expression(screen, ["G01", "G02+G03"])
    >>> table.shape, list(table.index)
    ((2, 20), ['G01', 'G02+G03'])
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


def control_cells(screen: Screen, scored: np.ndarray) -> np.ndarray:
    """Return which control cells conditions are compared with, `cell`.

    Those among the scored cells; all of the screen's where there are none, as on a split that holds
    combinations out.

    Raises
    ------
    InputError
        If the screen has no control cells.
    """
    control = screen.is_control
    if not control.any():
        raise InputError("the screen has no control cells to compare with")
    in_split = control & scored
    return in_split if in_split.any() else control
