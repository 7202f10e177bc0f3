"""Scores of predicted effects against the data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.evaluation.differential_expression import differential_expression
from samsvae.metrics.correlation import pearson
from samsvae.types import Scale


class AtePearson(NamedTuple):
    """Pearson correlation of effects with the data's differential expression."""

    pooled: float
    """Over all conditions x genes (the paper's)."""
    top: float
    """Over each condition's genes most changed by |DE| in all cells, pooled."""
    per_condition: pd.Series
    """By condition, over all genes."""

    @property
    def median(self) -> float:
        """Median over conditions."""
        return float(self.per_condition.median())


def ate_pearson(
    effects: pd.DataFrame,
    reference: Screen,
    all_cells: Screen,
    *,
    scale: Scale = "log",
    n_top: int = 20,
) -> AtePearson:
    """Correlate effects with the differential expression of some cells.

    Parameters
    ----------
    effects
        ATE, conditions (named in any way) x genes. Control is not scored.
    reference
        The cells whose DE is compared with, such as the test cells. Conditions without cells
        there are not scored.
    all_cells
        The whole screen, which names each condition's most changed genes.
    scale
        On which the effects are, and the DE is taken.
    n_top
        How many genes those are.

    Raises
    ------
    InputError
        If no condition can be scored.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
    >>> from samsvae.evaluation.differential_expression import differential_expression
    >>> effects = differential_expression(screen)  # the data as a prediction of themselves
    >>> round(ate_pearson(effects, screen, screen).pooled, 6)
    1.0
    """
    observed = set(reference.conditions) - {reference.condition_names[0]}
    stored = reference.vocabulary.stored
    names = [name for name in effects.index if stored(name) in observed]
    if not names:
        raise InputError("no condition to score: none of the effects has cells to compare with")
    ate = effects.loc[names].to_numpy()
    de = differential_expression(reference, names, scale=scale).to_numpy()
    same = reference is all_cells
    everywhere = de
    if not same:
        everywhere = differential_expression(all_cells, names, scale=scale).to_numpy()
    top = np.argsort(-np.abs(everywhere), axis=1, kind="stable")[:, :n_top]
    per_condition = pd.Series(
        [pearson(a, d) for a, d in zip(ate, de, strict=True)], pd.Index(names, name="condition")
    )
    return AtePearson(
        pearson(ate, de),
        pearson(np.take_along_axis(ate, top, 1), np.take_along_axis(de, top, 1)),
        per_condition,
    )
