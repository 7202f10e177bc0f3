"""How far effects of validation cells are from a model's: by how much intervals are widened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from samsvae.data.fold_changes import fold_changes
from samsvae.data.screen import Screen
from samsvae.estimators.predictions import Predictions
from samsvae.estimators.trained import TrainedModel
from samsvae.inference.discrepancy import fitted_discrepancy

_NOISY = 0.5
"""Variance of a log2 fold change of validation cells that tells nothing: of rare genes."""
_MAX_LEARNED = 200
"""Conditions of which it is learned how far effects are from the model's, at most."""


def learned_discrepancy(model: TrainedModel, valid: Screen, train: Screen) -> dict[str, np.ndarray]:
    """Return how far effects of validation cells are from the model's, as the metadata hold it.

    They are of the same replicates as training cells, which show how far these are from others.
    Empty where nothing can be learned: without a posterior of effects, a library size, or
    conditions of which two validation cells have control cells in their batch.
    """
    metadata, control = model.metadata, np.asarray(valid.is_control)
    counts = np.bincount(valid.condition[~control], minlength=len(valid.condition_names))
    trained = set(metadata.conditions)
    names = [n for n, k in zip(valid.condition_names, counts, strict=True) if k > 1]
    names = [name for name in names if name in trained and metadata.is_estimable(name)]
    if "lfc" not in model.module.likelihood.scales or not control.any() or not names:
        return {}
    if len(names) > _MAX_LEARNED:
        order = np.random.default_rng(0).permutation(len(names))[:_MAX_LEARNED]
        names = [names[i] for i in sorted(order)]
    place = {name: i for i, name in enumerate(names)}
    group = np.array([place.get(name, -1) for name in valid.condition_names])[valid.condition]
    alike = replace(valid, replicate=None)
    change = fold_changes(alike, group, control, len(names))
    change, _ = change.from_typical_gene
    effects = Predictions(model).effects(
        names, scale="lfc", n_particles=200, n_draws=40, progress=False
    )
    half = (effects.layers["upper"] - effects.layers["lower"]) / 2
    if np.isnan(half).all():
        return {}
    noise = change.expected_variance + (half / ndtri(0.95)) ** 2 + effects.layers["mc_se"] ** 2
    effect = np.asarray(effects.X, float)
    residual = np.where(noise < _NOISY, change.difference - effect, np.nan)
    spread, slope = fitted_discrepancy(residual, noise, effect)
    if train.replicate is not None:
        group = np.array([place.get(name, -1) for name in train.condition_names])
        own = group[train.condition], train.is_control, len(names)
        spread = spread.plus(fold_changes(train, *own).between)
    of_condition = np.full(len(metadata.conditions), spread.of_condition.mean())
    of_condition[[metadata.conditions.index(name) for name in names]] = spread.of_condition
    of_condition[0] = 0
    return {
        "spread_of_condition": of_condition,
        "spread_of_gene": spread.of_gene,
        "discrepancy_slope": np.array([slope]),
    }
