"""What combinations do to genes beyond the sum of their parts, from model and cells together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from samsvae.analysis.effect_posterior import EffectAnswer, EffectPosterior
from samsvae.analysis.mixture import PredictedEffects, some_rows
from samsvae.analysis.shrinkage import fitted_prior
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.estimators.base import Estimator
from samsvae.settings.questions import ContrastSettings


def interactions_of(
    model: Estimator, screen: Screen, names: Sequence[str] | None, settings: ContrastSettings
) -> tuple[EffectAnswer, list[str]]:
    """Return effects of combinations minus the sum of their parts', and the combinations.

    Errors of control cells, which all effects share, cancel in part. The prior, about 0 and about
    the model's predicted interaction (its own, with `learn_interactions`, and what the decoder's
    curvature makes of additive shifts), is learned from all combinations with cells.
    """
    predictor = EffectPosterior.of(model, screen, settings)
    inputs = predictor.inputs([], settings.of_effects())
    measured = set(model.metadata.conditions)
    pairs = [name for name, row in inputs.place.items() if row in inputs.parts and name in measured]
    stored = pairs if names is None else [model.metadata.stored(name) for name in names]
    strange = [name for name in stored if name not in pairs]
    if strange or not pairs:
        raise InputError(
            "interactions are of combinations with training cells whose parts the model has "
            f"effects of: {listed(strange) if strange else 'there is no such combination'}"
        )
    row, column, value = [], [], []
    for i, name in enumerate(pairs):
        parts = inputs.parts[inputs.place[name]]
        row += [i] * (1 + len(parts))
        column += [inputs.place[name], *parts]
        value += [1.0, *[-1.0] * len(parts)]
    weights = sp.csr_matrix((value, (row, column)), (len(pairs), len(inputs.place)))
    every = np.ones(len(predictor.screen), bool)
    train, valid, observed = (
        predictor.sums_observed(inputs, cells, weights)
        for cells in (*predictor.of_split.values(), every)
    )
    predicted = PredictedEffects(
        weights @ inputs.predicted.effect,
        weights.multiply(weights).tocsr() @ inputs.predicted.variance,
    )
    prior = fitted_prior(train, valid, predicted, seed=settings.seed)
    own = np.array([pairs.index(name) for name in stored], int)
    observed, predicted = some_rows(observed, own), some_rows(predicted, own)
    posterior = prior.of(own).posterior(observed, predicted)
    of_rows = (weights != 0).astype(int) @ ~inputs.estimable
    answer = EffectAnswer(posterior, observed, predicted, prior, (of_rows == 0)[own])
    return answer, stored if names is None else list(names)
