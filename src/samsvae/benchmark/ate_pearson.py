"""Scores of predicted effects against the data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.benchmark.metrics.effects import paired_means, pearson_of_means
from samsvae.benchmark.metrics.moments import N_TOP, most_changed
from samsvae.data.expression import condition_differences, position_of
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.settings.arguments import checked
from samsvae.types import Scale


class AtePearson(NamedTuple):
    """Pearson correlation of effects with the data's differential expression."""

    pooled: float
    """Over all conditions x genes (the paper's)."""
    top: float
    """Over each condition's genes of the largest |DE|, pooled."""
    per_condition: pd.Series
    """By condition, over all genes."""

    @property
    def median(self) -> float:
        """Median over conditions."""
        return float(self.per_condition.median())


@checked
def ate_pearson(
    effects: pd.DataFrame,
    reference: Screen,
    *,
    scale: Scale = "log",
    n_top: int = N_TOP,
) -> AtePearson:
    """Correlate effects with the differential expression of some cells.

    Parameters
    ----------
    effects
        ATE, conditions (named in any way) x genes. Control is not scored.
    reference
        The cells whose DE is compared with, such as the test cells. Conditions without cells
        there are not scored.
    scale
        On which the effects are, and the DE is taken.
    n_top
        How many genes of a condition are those that change most.

    Raises
    ------
    InputError
        If no condition can be scored.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
    >>> from samsvae.analysis.differential_expression import differential_expression
    >>> effects = differential_expression(screen)  # the data as a prediction of themselves
    >>> round(ate_pearson(effects, screen).pooled, 6)
    1.0
    """
    observed = set(reference.conditions) - {reference.condition_names[0]}
    stored = reference.registry.stored
    names = [name for name in effects.index if stored(name) in observed]
    if not names:
        raise InputError("no condition to score: none of the effects has cells to compare with")
    ate = effects.loc[names].to_numpy()
    de = condition_differences(reference, [position_of(reference, n) for n in names], scale)
    known = ~np.isnan(de).any(1)  # of the others no cells can be compared with control
    top = most_changed(de, n_top)
    of_all = paired_means(ate, de)
    of_top = paired_means(np.take_along_axis(ate, top, 1), np.take_along_axis(de, top, 1))
    return AtePearson(
        float(pearson_of_means(of_all[known].mean(0))),
        float(pearson_of_means(of_top[known].mean(0))),
        pd.Series(pearson_of_means(of_all), pd.Index(names, name="condition")),
    )
