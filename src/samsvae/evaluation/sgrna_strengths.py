"""How well each sgRNA works: where its cells stand along the effect of their condition."""

from __future__ import annotations

import numpy as np
import pandas as pd

from samsvae.data.expression import expression, group_means
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.settings.arguments import checked
from samsvae.types import Scale


@checked
def sgrna_strengths(screen: Screen, effects: pd.DataFrame, *, scale: Scale = "log") -> pd.DataFrame:
    """Return how strongly the cells of each sgRNA show the effect of their condition.

    The expression of a cell, minus that of control cells of its batch, is projected on the effect e
    of its condition: (x - control) . e / (e . e) is 0 for a cell like control, and 1 on average
    where the cells show the effect in full.

    Parameters
    ----------
    screen
        Read with `sgrna_key`.
    effects
        Conditions x genes, on the scale.
    scale
        Of the effects: "log", "normalized" or "mean".

    Returns
    -------
    One row per condition and sgRNA of its cells: n_cells, strength (mean over these cells), se (its
    standard error; NaN for one cell). NaN where no effect is known or no cell has a control cell in
    its batch.

    Raises
    ------
    InputError
        If the sgRNAs of the cells are not known.

    Examples
    --------
    >>> from anndata import AnnData
    >>> labels = ["control", "control", "A", "A", "A"]
    >>> obs = pd.DataFrame({"perturbation": labels, "sgrna": ["n", "n", "A1", "A1", "A2"]})
    >>> obs.index = obs.index.astype(str)
    >>> counts = np.array([[5, 5], [5, 5], [8, 2], [8, 2], [5, 5]])
    >>> screen = Screen.from_anndata(AnnData(counts, obs=obs), sgrna_key="sgrna")
    >>> effect = pd.DataFrame([[3000.0, -3000.0]], ["A"], ["0", "1"])
    >>> table = sgrna_strengths(screen, effect, scale="normalized")
    >>> table[["sgrna", "n_cells", "strength"]].values.tolist()
    [['A1', 2, 1.0], ['A2', 1, 0.0]]
    """
    if screen.sgrna is None:
        raise InputError("the sgRNAs of the cells are not known: read the screen with sgrna_key")
    values, n_batches = expression(screen, scale), int(screen.batch.max(initial=0)) + 1
    control = screen.is_control
    centre = group_means(values[control], screen.batch[control], n_batches)
    rows = []
    for code in np.unique(screen.condition[~control]):
        name = screen.condition_names[code]
        cells = np.flatnonzero(screen.condition == code)
        effect = np.zeros(len(screen.genes))
        if name in effects.index:
            effect = np.nan_to_num(effects.loc[name, list(screen.genes)].to_numpy(float))
        square = float(effect @ effect)
        batch = screen.batch[cells]
        along = np.full(len(cells), np.nan)
        if square > 0:
            along = (values[cells] @ effect - centre[batch] @ effect) / square
        table = pd.DataFrame({"sgrna": np.asarray(screen.sgrna[cells], object), "along": along})
        for sgrna, own in table.groupby("sgrna", observed=True)["along"]:
            known = own.dropna()
            rows.append(
                {
                    "condition": name,
                    "sgrna": str(sgrna),
                    "n_cells": len(own),
                    "strength": known.mean() if len(known) else np.nan,
                    "se": known.std() / np.sqrt(len(known)) if len(known) > 1 else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=["condition", "sgrna", "n_cells", "strength", "se"])
