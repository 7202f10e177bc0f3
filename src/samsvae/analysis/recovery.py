"""How well a model fitted to a simulated screen recovers its truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.analysis.differential_expression import differential_expression
from samsvae.benchmark.metrics.effects import correlation_per_condition
from samsvae.benchmark.metrics.masks import chance_f1, mask_matthews, mask_score, mean_correlation
from samsvae.data.conditions import Conditions
from samsvae.data.screen import Screen
from samsvae.data.simulate import SimulatedScreen
from samsvae.errors import InputError
from samsvae.settings.arguments import checked
from samsvae.types import Scale


class Recovering(Protocol):
    """What is asked of the model."""

    def mask_probabilities(self) -> pd.DataFrame: ...

    def latent(self, screen: Screen, *, seed: int = 0) -> dict[str, np.ndarray]: ...

    def effects(
        self,
        conditions: Conditions | None = None,
        *,
        scale: Scale | None = None,
        n_draws: int = 100,
        seed: int = 0,
        progress: bool = True,
    ) -> AnnData: ...


@dataclass(frozen=True)
class Recovery:
    """How much of a simulated screen's truth a model recovered."""

    mask_f1: float
    """Of the mask (posterior probability > 1/2) after matching latent dimensions; what is of masks
    is NaN for a model without one."""
    mask_precision: float
    mask_recall: float
    mask_matthews: float
    random_mask_f1: float
    """Of masks at random with as many entries."""
    full_mask_f1: float
    """Of a mask that lets everything through."""
    states: float
    """Mean correlation of the true latent dimensions with those they match, over held-out cells
    of conditions seen in training."""
    singles: float
    """Median over perturbations of the correlation of effects with the truth."""
    unseen_combinations: float
    """The same over combinations never seen in training; NaN for a model without an answer."""
    observed_singles: float
    """The same of differential expression between training cells, for singles."""
    sum_of_observed_singles: float
    """The same of its sum over the parts, for combinations never seen in training."""


@checked
def recovery(model: Recovering, screen: SimulatedScreen, *, seed: int = 0) -> Recovery:
    """Compare a trained model with the truth of a simulated screen.

    Effects are on scale "normalized", correlated over genes, medians over conditions.

    Parameters
    ----------
    model
        Trained on the screen.
    screen
        From `samsvae.simulated_screen`.
    seed
        Same seed, same numbers.

    Examples
    --------
    >>> import samsvae
    >>> screen = samsvae.datasets.simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20)
    >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> model = model.train(max_steps=5, progress=False)
    >>> found = recovery(model, screen)
    >>> bool(0 <= found.mask_f1 <= 1)
    True
    """
    seen = set(screen.train.conditions)
    singles = list(screen.perturbations)
    combinations = sorted(set(screen.conditions) - seen)
    observed = differential_expression(screen.train, singles, scale="normalized")
    parts = screen.registry.parser.parts
    sums = [observed.loc[parts(name)].sum().rename(name) for name in combinations]
    names = np.array(screen.condition_names)[screen.condition]
    held_out = screen[(np.asarray(screen.split) == "test") & np.isin(names, list(seen))]
    states = model.latent(held_out, seed=seed)["state"]
    return Recovery(
        **_of_mask(model, screen, seed),
        states=mean_correlation(states, held_out.state),
        singles=_of_effects(_asked(model, singles, seed), screen),
        unseen_combinations=_of_effects(_asked(model, combinations, seed), screen),
        observed_singles=_of_effects(observed, screen),
        sum_of_observed_singles=_of_effects(pd.DataFrame(sums), screen),
    )


def _of_mask(model: Recovering, screen: SimulatedScreen, seed: int) -> dict[str, float]:
    truth = screen.truth.mask
    names = [name for name in Recovery.__dataclass_fields__ if "mask" in name]
    try:
        probabilities = model.mask_probabilities()
    except InputError:  # it displaces nothing in latent space
        return dict.fromkeys(names, math.nan)
    fitted, true = (probabilities.loc[truth.index] > 0.5).to_numpy(), truth.to_numpy()
    full = mask_score(np.ones_like(fitted), true).f1
    chance = chance_f1(fitted, true, seed=seed)
    values = (*mask_score(fitted, true), mask_matthews(fitted, true), chance, full)
    return dict(zip(names, values, strict=True))


def _asked(model: Recovering, conditions: list[str], seed: int) -> pd.DataFrame:
    """Return effects of conditions; none, if the model has no answer for them (SVAE+)."""
    try:
        effects = model.effects(
            conditions, scale="normalized", n_draws=0, seed=seed, progress=False
        )
    except InputError:
        return pd.DataFrame()
    return effects.to_df()


def _of_effects(effects: pd.DataFrame, screen: SimulatedScreen) -> float:
    true = screen.truth.effects(list(effects.index))
    return float(correlation_per_condition(effects, true).dropna().median())
