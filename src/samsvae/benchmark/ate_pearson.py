"""Pearson correlation of effects with the data's differential expression, and its predictive check.

The check asks whether a model expects of its own data the correlation that it reaches on the cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from rich.progress import track

from samsvae.benchmark.metrics.effects import paired_means, pearson, pearson_of_means
from samsvae.benchmark.metrics.observed import N_TOP, most_changed
from samsvae.data.alignment import align_table
from samsvae.data.expression import Block, differences_from_control, expression, normalised
from samsvae.data.fold_changes import condition_fold_changes, differential_expression, precision
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator
from samsvae.inference.simulation import replicated_cells
from samsvae.settings.arguments import Natural, Several, checked
from samsvae.types import ALL_CONDITIONS, Scale


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
    effects: pd.DataFrame, reference: Screen, *, scale: Scale | None = None, n_top: int = N_TOP
) -> AtePearson:
    """Correlate effects with the differential expression of some cells.

    `effects` are ATE, conditions (named in any way) x genes (by name, in any order; of some genes,
    these are scored), on a scale, by default that of `differential_expression`. `reference` holds
    the cells whose DE is compared with, such as the test cells. Control, and conditions without
    cells there, are not scored. `n_top` genes of a condition are those that change most. Fold
    changes are weighted by their precision. It is an error if no condition can be scored, or the
    screen lacks one of the genes.

    Examples
    --------
    >>> effects = differential_expression(screen)  # the data as a prediction of themselves
    >>> round(ate_pearson(effects, screen).pooled, 6)
    1.0
    """
    present = set(reference.conditions) - {reference.condition_names[0]}
    stored = reference.registry.stored
    names = [name for name in effects.index if stored(name) in present]
    if not names:
        raise InputError("no condition to score: none of the effects has cells to compare with")
    ate = effects.loc[names].to_numpy()
    de = differential_expression(reference, names, scale=scale)
    weight = np.ones_like(de)
    if (scale or reference.registry.scales[0]) == "lfc":
        change, positions = condition_fold_changes(reference), reference.position_of_condition
        weight[:] = precision(change.variance[[positions[stored(name)] for name in names]])
    matched = {"genes": list(effects.columns)}
    de, weight = (
        align_table(table, **matched).to_numpy()
        for table in (de, pd.DataFrame(weight, de.index, de.columns))
    )
    estimable = ~np.isnan(de).any(1)  # the others share no batch with control cells
    top = most_changed(de * np.sqrt(weight), n_top)
    of_all = paired_means(ate, de, weight)
    of_top = paired_means(*(np.take_along_axis(x, top, 1) for x in (ate, de, weight)))
    return AtePearson(
        float(pearson_of_means(of_all[estimable].mean(0))),
        float(pearson_of_means(of_top[estimable].mean(0))),
        pd.Series(pearson_of_means(of_all), pd.Index(names, name="condition")),
    )


class PredictiveCheck(NamedTuple):
    """Correlation of effects with differential expression: replicated, and observed."""

    replicated: pd.DataFrame
    """Draws x conditions ("(all)" first: over all of them together): r(ATE, DE) of replicates."""
    observed: pd.Series
    """The same for the observed cells."""
    percentile: pd.Series
    """Share of the draws below the observed value: near 0, the data agree less with the effects
    than the model expects of its own data; near 1, more."""


@checked
def predictive_check(
    model: Estimator,
    cells: Screen,
    *,
    n_draws: Several = 100,
    effect_particles: int = 2500,
    seed: Natural = 0,
    progress: bool = True,
) -> PredictiveCheck:
    """Compare r(ATE, DE) of observed cells with that of cells the model draws in their place.

    Each posterior draw of the globals gives a replicate of all these cells, with the perturbations,
    library sizes and batches that they have, and basal states from the prior. Its DE is compared
    with the same ATE (at observed library sizes) as that of the data. Both the globals and the
    sampling of cells vary, so a low correlation from few cells is no evidence against the model.

    Parameters
    ----------
    model, cells
        A trained model; cells such as `screen.test`, with control, matched by gene and perturbation
        name.
    n_draws, effect_particles, seed, progress
        Number of replicates; particles of the ATE; same seed, same numbers; show progress bars.

    References
    ----------
    Section 3.2 of the paper; Gelman, Meng, Stern: Posterior predictive assessment of model fitness
    via realized discrepancies, Statistica Sinica 1996.

    Examples
    --------
    >>> check = predictive_check(
    ...     model, screen.train, n_draws=4, effect_particles=20, progress=False
    ... )
    >>> list(check.observed.index)
    ['(all)', 'G01', 'G02', 'G03']
    """
    loader = model.loader(cells)
    matched = loader.screen
    control, *names = matched.conditions
    if control != matched.condition_names[0] or not names:
        raise InputError("expected cells of control and of at least one other condition")
    scales = model.module.likelihood.scales
    settings: dict[str, Any] = {"n_particles": effect_particles, "n_draws": 0, "seed": seed}
    settings["scale"] = "log" if "log" in scales else scales[0]
    effects = model.effects(names, library_size="observed", progress=progress, **settings)
    scale: Scale = effects.uns["scale"]
    table = effects.to_df()
    observed = _correlations(expression(matched, scale).blocks(), matched, table)
    generator = torch.Generator(loader.device).manual_seed(seed)
    draws = []
    for _ in track(range(n_draws), "replicates", disable=not progress):
        replicate = (
            (rows, normalised(sp.csr_matrix(drawn), scale))
            for rows, drawn in replicated_cells(model.module, loader, generator)
        )
        draws.append(_correlations(replicate, matched, table))
    replicated = pd.DataFrame(draws).rename_axis("draw")
    return PredictiveCheck(replicated, observed, (replicated < observed).mean())


def _correlations(blocks: Iterable[Block], cells: Screen, effects: pd.DataFrame) -> pd.Series:
    """Return r(ATE, DE), of all conditions together and of each."""
    n_conditions = len(cells.condition_names)
    change = differences_from_control(blocks, cells.condition, cells.batch, n_conditions)
    rows = [cells.position_of_condition[name] for name in effects.index]
    de, ate = change[rows], effects.to_numpy()
    together = pearson(ate.ravel(), de.ravel())
    return pd.Series([together, *pearson(ate, de)], [ALL_CONDITIONS, *effects.index], dtype=float)
