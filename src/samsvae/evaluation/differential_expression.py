"""Differential expression of the data: what effects are compared with."""

from __future__ import annotations

import numpy as np
import pandas as pd

from samsvae.data.expression import differences_from_control, expression
from samsvae.data.notation import Conditions
from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.settings.arguments import checked
from samsvae.types import Scale


@checked
def differential_expression(
    screen: Screen,
    conditions: Conditions | None = None,
    *,
    scale: Scale = "log",
) -> pd.DataFrame:
    """Return the difference of mean expression between conditions and control.

    DE = mean over the condition's cells of log2(1 + 1e4 x / sum x) - the same over control cells;
    within batches, where there are any: control cells count as the condition's cells are spread
    over the batches, and cells in batches without control are left out.

    Parameters
    ----------
    screen
        The cells, say `screen.test`.
    conditions
        Which, named in any way ("B+A", ("A", "B")); by default all that occur in these cells, but
        for control.
    scale
        "log"; "normalized": 1e4 x / sum x without the logarithm; "mean": x as it is.

    Returns
    -------
    Conditions (as asked) x genes, on the scale. A condition of the screen that has no cells among
    these is a row of NaN.

    Raises
    ------
    InputError
        If the screen holds no control cells, or no cell of the whole screen has a condition.

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
    labels = screen.conditions if conditions is None else conditions
    asked = {name: position_of(screen, name) for name in screen.vocabulary.notation.asked(labels)}
    asked = {name: position for name, position in asked.items() if position > 0}  # but control
    values, n_conditions = expression(screen, scale), len(screen.condition_names)
    change = differences_from_control(values.blocks(), screen.condition, screen.batch, n_conditions)
    return pd.DataFrame(
        change[list(asked.values())],
        pd.Index(list(asked), name="condition"),
        pd.Index(screen.genes, name="gene"),
    )


def position_of(screen: Screen, condition: object) -> int:
    """Return which of a screen's conditions is asked for; control is 0.

    Raises
    ------
    InputError
        If there is no such condition in the whole screen.
    """
    stored = screen.vocabulary.stored(condition)
    position = screen.position_of_condition.get(stored)
    if position is None:
        raise unknown("condition", stored, screen.condition_names)
    return position


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
