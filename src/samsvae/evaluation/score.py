"""How good a model is on held-out cells: the numbers `samsvae evaluate` prints."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.data.screen import Screen
from samsvae.data.vocabulary import SPLITS
from samsvae.errors import InputError, listed, unknown
from samsvae.estimators.base import Estimator
from samsvae.evaluation.ate_pearson import ate_pearson
from samsvae.evaluation.differential_expression import control_cells


class ModelScore(NamedTuple):
    """Scores of a model on the cells of one split."""

    summary: dict[str, Any]
    """What metrics.json holds, by name."""
    per_condition: pd.DataFrame
    """By condition: Pearson r of its ATE with the DE of the split's and of all cells."""
    effects: AnnData
    """The effects that were scored: on scale "log" at library size 1e4, or on scale "mean" for a
    likelihood without a library size."""


def score(
    model: Estimator,
    screen: Screen,
    *,
    split: str = "test",
    n_particles: int = 100,
    effect_particles: int = 2500,
    seed: int = 0,
    progress: bool = True,
) -> ModelScore:
    """Score a model: IWELBO of a split's cells, and effects against differential expression.

    Parameters
    ----------
    model
        Trained.
    screen
        The whole screen, with its split.
    split
        Whose cells are scored.
    n_particles
        Particles of the IWELBO.
    effect_particles
        Particles of the effects.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.

    Returns
    -------
    With, in its summary: the scale of effects and DE; iwelbo (mean over cells, nats) and
    iwelbo_mc_se; ate_pearson, pooled over conditions and genes against the DE of the split's cells,
    ate_pearson_all_cells against the DE of all cells; both _top20 over each condition's 20 genes
    most changed by |DE| in all cells;
    ate_pearson_per_condition_median against the split's cells. Control is not scored.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    matched, n_ignored = screen.matched_to(model.vocabulary)
    if n_ignored:
        warnings.warn(f"{n_ignored} genes that the model does not know are ignored", stacklevel=2)
    cells: Screen = getattr(matched, split)
    if not len(cells):
        raise InputError(f"the split leaves no {split} cells")
    left_out = [name for name in cells.conditions if not model.answers_for(name)]
    if left_out:
        warnings.warn(
            f"{len(left_out)} conditions of the {split} cells are left out, since the model has no "
            f"answer for them: {listed(left_out)}",
            stacklevel=2,
        )
        names = np.array(cells.condition_names)[cells.condition]
        cells = cells[~np.isin(names, left_out)]
    asked = [name for name in cells.conditions if name != matched.condition_names[0]]
    if not asked:
        raise InputError(f"no condition of the {split} cells is one that the model knows")
    iwelbo = model.iwelbo(cells, n_particles=n_particles, seed=seed, progress=progress)
    effects = model.effects(asked, n_particles=effect_particles, seed=seed, progress=progress)
    table = effects.to_df()
    scale = effects.uns["scale"]
    scored = np.asarray(matched.split) == split
    reference = matched[scored | control_cells(matched, scored)]
    in_split = ate_pearson(table, reference, matched, scale=scale)
    everywhere = ate_pearson(table, matched, matched, scale=scale)
    summary = {
        "scale": scale,
        "iwelbo": float(iwelbo["iwelbo"].mean()),
        "iwelbo_mc_se": float(iwelbo.attrs["mean_mc_se"]),
        "n_particles": n_particles,
        "n_cells": len(cells),
        "n_conditions": len(in_split.per_condition),
        "n_left_out": len(left_out),
        "ate_pearson": in_split.pooled,
        "ate_pearson_all_cells": everywhere.pooled,
        "ate_pearson_top20": in_split.top,
        "ate_pearson_all_cells_top20": everywhere.top,
        "ate_pearson_per_condition_median": in_split.median,
    }
    per_condition = pd.DataFrame(
        {
            "ate_pearson": in_split.per_condition,
            "ate_pearson_all_cells": everywhere.per_condition,
            "n_cells": [len(cells.of(name)) for name in in_split.per_condition.index],
        }
    )
    return ModelScore(summary, per_condition, effects)
