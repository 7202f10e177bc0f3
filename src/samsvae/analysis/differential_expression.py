"""Differential expression of the data, which effects are compared with."""

from __future__ import annotations

import pandas as pd

from samsvae.data.conditions import Conditions
from samsvae.data.expression import condition_differences, position_of
from samsvae.data.screen import Screen
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
    within batches: control cells are weighted as the condition's cells are distributed over
    batches, and cells in batches without control are left out.

    Parameters
    ----------
    screen
        The cells, say `screen.test`.
    conditions
        Named in any way ("B+A", ("A", "B")); by default all in these cells but control.
    scale
        "log"; "normalized": counts per 10,000, without the logarithm; "mean": x as it is.

    Returns
    -------
    Conditions (as given) x genes, on the scale. A condition of the screen without cells among
    these is a row of NaN.

    Raises
    ------
    InputError
        If the screen holds no control cells, or no cell of the whole screen has a condition.

    Examples
    --------
    >>> table = differential_expression(screen, ["G01", "G02+G03"])
    >>> table.shape, list(table.index)
    ((2, 20), ['G01', 'G02+G03'])
    """
    labels = screen.registry.parser.labels(screen.conditions if conditions is None else conditions)
    positions = {name: position_of(screen, name) for name in labels}
    perturbed = {name: position for name, position in positions.items() if position > 0}
    return pd.DataFrame(
        condition_differences(screen, list(perturbed.values()), scale),
        pd.Index(list(perturbed), name="condition"),
        pd.Index(screen.genes, name="gene"),
    )
