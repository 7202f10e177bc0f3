"""The contrast of two conditions: how their effects differ, gene by gene, at what error rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.analysis.contexts import difference_of_contexts, with_context
from samsvae.analysis.discoveries import columns_of, long_table
from samsvae.analysis.effect_posterior import EffectAnswer, EffectPosterior
from samsvae.analysis.mixture import Posterior, PredictedEffects, some_rows
from samsvae.analysis.ordering import surest_first
from samsvae.analysis.shrinkage import fitted_prior
from samsvae.data.conditions import ConditionName
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator
from samsvae.estimators.cautions import Cautions, titles_of
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import ContrastSettings, EffectSettings


@checked
@takes(ContrastSettings)
def contrast(
    model: Estimator,
    screen: Screen,
    condition: ConditionName,
    against: ConditionName,
    **settings: Any,
) -> pd.DataFrame:
    """Return the effect of one condition minus that of another, gene by gene.

    The posterior is that of `samsvae.discoveries`, but of the contrast itself, not of two effects:
    its prior, about 0 and about the model's predicted contrast, is learned from contrasts of pairs
    of training conditions, so that two conditions that act alike have none. The sampling error of
    control cells, which both effects share, cancels within batches and is not counted.

    Parameters
    ----------
    model, screen
        As in `samsvae.discoveries`.
    condition, against
        Two conditions, seen in training or not; with contexts they may be in different ones:
        ("STAT1", "stimulated") against ("STAT1", "rest"). The effect of a combination without
        cells is the sum of its parts', as in `samsvae.discoveries`; where a single perturbation
        has no cells, the model's predicted contrast counts alone.
    **settings
        context, cells ("all", or "responders"), contamination (0), scale ("lfc"), relative_to
        ("typical gene"), n_particles (1000), seed (0), progress; see
        `samsvae.settings.questions.ContrastSettings`.

    Returns
    -------
    One row per `gene`, the surest first, of `condition` minus `against`:

    - estimate, sd, lower and upper: posterior mean, standard deviation and 90 % interval;
    - lfsr: the probability that the contrast is null or of the other sign; q_value: the expected
      share of such errors among all genes with an lfsr as small;
    - model: its predicted contrast; observed: that of the cells (NaN unless both have some);
    - n_cells and n_cells_against; scale. `attrs["cautions"]` says what speaks against it.

    NaN, with an lfsr of 1, where either effect is not estimable.

    Raises
    ------
    InputError
        If both are the same condition, or as in `samsvae.discoveries`.

    Examples
    --------
    >>> table = samsvae.contrast(model, screen, "G01", "G02", n_particles=50, progress=False)
    >>> len(table) == len(screen.genes)
    True
    """
    chosen = ContrastSettings(**settings)
    both = [with_context(model.registry, name) for name in (condition, against)]
    pair = [model.metadata.labels([name])[0] for name, _ in both]
    stored = [model.metadata.stored(name) for name in pair]
    contexts = [context or chosen.context for _, context in both]
    if stored[0] == stored[1] and contexts[0] == contexts[1]:
        raise InputError(f"both conditions are {pair[0]!r}: expected two different ones")
    if None in contexts and contexts[0] != contexts[1]:
        raise InputError(
            f"only one condition has a context, {contexts[0] or contexts[1]!r}: name that of the "
            "other, too, or give context= for both"
        )
    # In alphabetical order, so that exchanging the two changes the sign and nothing else.
    terms = [(name, context or "") for name, context in zip(stored, contexts, strict=True)]
    ordered = sorted(terms)
    if contexts[0] != contexts[1]:
        sums = {term: 1.0 - 2 * i for i, term in enumerate(ordered)}
        answer, _ = difference_of_contexts(model, screen, [sums], chosen)
        n_cells = np.array([_n_cells(model, screen, *term) for term in ordered])
        pair = [f"{name} in {context}" for name, context in zip(pair, contexts, strict=True)]
    else:
        predictor = EffectPosterior.of(model, screen, replace(chosen, context=contexts[0]))
        answer, n_cells = _answer(predictor, sorted(stored), chosen.of_effects())
    if terms != ordered:
        answer, n_cells = _negated(answer), n_cells[::-1]
    values = columns_of(answer, model.metadata.unexpressed)
    for name, n in zip(("n_cells", "n_cells_against"), n_cells, strict=True):
        values[name] = np.full(values["lfsr"].shape, n)
    scale = chosen.scale or model.default_scale
    labels = {"condition": pair[:1], "against": pair[1:]}
    table = surest_first(long_table(labels, model.registry.genes, values, scale))
    table.attrs |= {"scale": scale, "relative_to": chosen.relative_to, "cells": chosen.cells}
    table.attrs["contamination"] = chosen.contamination
    found = Cautions(model).found(screen)
    concerned = titles_of(found, stored, model.registry, n_cells > 0)
    table.attrs["cautions"] = [
        f"{one.title}. {one.text}"
        for one in found
        if not one.conditions or any(one.title in titles for titles in concerned)
    ]
    return table


def _n_cells(model: Estimator, screen: Screen, condition: str, context: str) -> int:
    """Return the cells of a condition in a context, of any split."""
    cells = model.matched(screen)
    registry, names = cells.registry, np.array(cells.condition_names)
    is_own = registry.context_of_batch == registry.contexts.index(context)
    return int((is_own[cells.batch] & (names == condition)[cells.condition]).sum())


def _answer(
    predictor: EffectPosterior, stored: Sequence[str], settings: EffectSettings
) -> tuple[EffectAnswer, np.ndarray]:
    """Return the contrast of two conditions, and the cells of both."""
    inputs = predictor.inputs(stored, settings)
    first, second = (inputs.place[name] for name in stored)
    group = predictor.row_of_cells(inputs.place)
    n_cells = np.array([(group == one).sum() for one in (first, second)])
    weights = _pairs(len(inputs.place), first, second, seed=settings.seed)
    is_control = [predictor.registry.parser.is_control(name) for name in inputs.place]
    weights = (weights @ sp.diags(1.0 - np.array(is_control))).tocsr()  # its effect is 0
    weights.eliminate_zeros()
    every = np.ones(len(predictor.screen), bool)
    train, valid, observed = (
        predictor.sums_observed(inputs, cells, weights)
        for cells in (*predictor.of_split.values(), every)
    )
    predicted = PredictedEffects(
        weights @ inputs.predicted.effect,
        weights.multiply(weights).tocsr() @ inputs.predicted.variance,
    )
    prior, row = fitted_prior(train, valid, predicted, seed=settings.seed), np.zeros(1, int)
    observed, predicted = some_rows(observed, row), some_rows(predicted, row)
    posterior = prior.of(row).posterior(observed, predicted)
    by_features = any(map(predictor.model.metadata.has_features_only, stored))
    if by_features or not inputs.parts.keys().isdisjoint((first, second)):  # without cells, maybe
        sums = predictor.sums(inputs)
        if not {first, second}.isdisjoint(sums.rows):
            posterior = sums.contrast(*(None if is_control[i] else i for i in (first, second)))
    estimable = np.array([inputs.estimable[[first, second]].all()])
    return EffectAnswer(posterior, observed, predicted, prior, estimable), n_cells


def _pairs(n: int, first: int, second: int, *, seed: int) -> sp.csr_matrix:
    """Return contrasts of pairs of conditions, `contrast condition`, that of two of them first.

    All conditions stand in a circle in random order, these two next to each other, and each is
    compared with the next: no condition's sampling error is in more than two contrasts.
    """
    others = np.setdiff1d(np.arange(n), [first, second])
    circle = np.array([first, second, *np.random.default_rng(seed).permutation(others)])
    n_pairs = n if n > 2 else 1  # of two conditions there is one pair
    row = np.repeat(np.arange(n_pairs), 2)
    column = np.stack([circle, np.roll(circle, -1)], 1)[:n_pairs].ravel()
    return sp.csr_matrix((np.tile([1.0, -1.0], n_pairs), (row, column)), (n_pairs, n))


def _negated(answer: EffectAnswer) -> EffectAnswer:
    """Return the contrast the other way round."""
    p, observed, predicted = answer.posterior, answer.observed, answer.predicted
    ends = -p.upper, -p.lower, -p.upper_50, -p.lower_50
    if_changed = -p.upper_if_changed, -p.lower_if_changed
    return answer._replace(
        posterior=Posterior(-p.mean, p.sd, *ends, p.lfsr, p.prob_null, *if_changed),
        observed=observed._replace(difference=-observed.difference),
        predicted=predicted._replace(effect=-predicted.effect),
    )
