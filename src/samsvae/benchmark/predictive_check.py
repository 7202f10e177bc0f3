"""Posterior predictive check: whether a model expects data like those that were observed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd
import scipy.sparse as sp
import torch
from rich.progress import track

from samsvae.benchmark.evaluate import POOLED
from samsvae.benchmark.metrics.effects import pearson
from samsvae.data.expression import Block, differences_from_control, expression, normalised
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count
from samsvae.estimators.base import Estimator
from samsvae.inference.simulation import replicated_cells
from samsvae.settings.arguments import checked
from samsvae.types import Scale


class PredictiveCheck(NamedTuple):
    """Correlation of effects with differential expression: replicated, and observed."""

    replicated: pd.DataFrame
    """Draws x conditions ("(all)" first: over all of them together): r(ATE, DE) of replicates."""
    observed: pd.Series
    """The same of the observed cells."""
    percentile: pd.Series
    """Share of the draws below what is observed: near 0, the data agree less with the effects than
    the model expects of its own data; near 1, more."""


@checked
def predictive_check(
    model: Estimator,
    cells: Screen,
    *,
    n_draws: int = 100,
    effect_particles: int = 2500,
    seed: int = 0,
    progress: bool = True,
) -> PredictiveCheck:
    """Compare r(ATE, DE) of observed cells with that of cells the model draws in their place.

    Each draw of the globals from their posterior gives a replicate of all these cells: what they
    received, their library sizes and batches as they are, basal states from the prior. Its DE is
    held against the same ATE (at observed library sizes) as that of the data. The spread is that of
    the globals and of the cells' sampling: so few cells are no reproach to a model.

    Parameters
    ----------
    model
        Trained.
    cells
        Say `screen.test`; control cells among them.
    n_draws
        Replicates.
    effect_particles
        Particles of the ATE.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.

    Raises
    ------
    InputError
        If there are no control cells or no conditions to compare, or the model does not know them.

    References
    ----------
    Section 3.2 of the paper; Gelman, Meng, Stern: Posterior predictive assessment of model fitness
    via realized discrepancies, Statistica Sinica 1996.

    Examples
    --------
    >>> import samsvae
    >>> screen = samsvae.datasets.simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20)
    >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> model = model.train(max_steps=5, progress=False)
    >>> check = predictive_check(
    ...     model, screen.train, n_draws=4, effect_particles=20, progress=False
    ... )
    >>> list(check.observed.index)
    ['(all)', 'G01', 'G02', 'G03']
    """
    check_count("n_draws", n_draws, low=2)
    loader = model.loader(cells)
    matched = loader.screen
    control, *names = matched.conditions
    if control != matched.condition_names[0] or not names:
        raise InputError("expected cells of control and of at least one other condition")
    effects = model.effects(
        names,
        library_size="observed",
        n_particles=effect_particles,
        n_draws=0,
        seed=seed,
        progress=progress,
    )
    scale: Scale = effects.uns["scale"]
    table = effects.to_df()
    observed = _correlations(expression(matched, scale).blocks(), matched, table)
    generator = torch.Generator(loader.device).manual_seed(seed)
    draws = []
    for _ in track(range(n_draws), "replicates", disable=not progress):
        replicate = (
            (cells, normalised(sp.csr_matrix(drawn), scale))
            for cells, drawn in replicated_cells(model.module, loader, generator)
        )
        draws.append(_correlations(replicate, matched, table))
    replicated = pd.DataFrame(draws).rename_axis("draw")
    return PredictiveCheck(replicated, observed, (replicated < observed).mean())


def _correlations(blocks: Iterable[Block], cells: Screen, effects: pd.DataFrame) -> pd.Series:
    """Return r(ATE, DE), of all conditions together and of each."""
    n_conditions = len(cells.condition_names)
    change = differences_from_control(blocks, cells.condition, cells.batch, n_conditions)
    position = [cells.position_of_condition[name] for name in effects.index]
    de, ate = change[position], effects.to_numpy()
    each = [pearson(a, d) for a, d in zip(ate, de, strict=True)]
    return pd.Series([pearson(ate, de), *each], [POOLED, *effects.index])
