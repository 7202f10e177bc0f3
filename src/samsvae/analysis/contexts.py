"""Differences of effects between contexts, gene by gene, from the model and the cells together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from samsvae.analysis.effect_posterior import EffectAnswer, EffectInputs, EffectPosterior
from samsvae.analysis.mixture import ObservedEffects, PredictedEffects, some_rows
from samsvae.analysis.shrinkage import fitted_prior
from samsvae.data.conditions import ConditionName
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator
from samsvae.settings.questions import ContrastSettings

Term = tuple[str, str]
"""A condition, as it is stored, in a context."""


def with_context(registry: NameRegistry, name: ConditionName) -> tuple[ConditionName, str | None]:
    """Return a condition and its context, of ("STAT1", "stimulated"); None: no context is named.

    >>> registry = NameRegistry(("g",), ("A", "B"), (("rest",), ("IFNG",)), context_columns=1)
    >>> with_context(registry, ("A", "IFNG")), with_context(registry, ("A", "B"))
    (('A', 'IFNG'), (('A', 'B'), None))
    """
    if isinstance(name, str) or not isinstance(name, Sequence) or len(name) != 2:
        return name, None
    condition, context = name
    is_context = context in registry.contexts and context not in registry.column
    return (condition, str(context)) if is_context else (name, None)


def contexts_apart(
    metadata_cells: np.ndarray, registry: NameRegistry
) -> list[tuple[str, dict[str, float]]]:
    """Return contexts that are compared with the mean of the others: weights by context.

    Of two contexts the comparison is one: of the last with the first.
    """
    known = [name for name, n in zip(registry.contexts, metadata_cells.sum(0), strict=True) if n]
    if len(known) < 2:
        raise InputError(
            "by='context' compares contexts, and the model has no two of them: read the screen "
            "with context_key, a column of at least two levels"
        )
    own = known if len(known) > 2 else known[1:]
    others = -1 / (len(known) - 1)
    return [(one, {name: 1.0 if name == one else others for name in known}) for one in own]


def difference_of_contexts(
    model: Estimator,
    screen: Screen,
    asked: Sequence[Mapping[Term, float]],
    settings: ContrastSettings,
) -> tuple[EffectAnswer, np.ndarray]:
    """Return weighted sums of effects, each in a context, and the cells of every term's least.

    Each context has control cells of its own, so that errors of its effects are independent of
    those in other contexts. The prior of a difference, about 0 and about the predicted one, is
    learned from the same difference of all training conditions that have cells in these contexts.
    The variance of a predicted difference is the sum of those of its terms, although what they
    share cancels: the model then counts for less, never for more.
    """
    contexts = sorted({context for sums in asked for _, context in sums})
    predictors = {
        context: EffectPosterior(model, screen, cells=settings.cells, context=context)
        for context in contexts
    }
    wanted = list(dict.fromkeys(name for sums in asked for name, _ in sums))
    of_effects = settings.of_effects()
    inputs = {context: one.inputs(wanted, of_effects) for context, one in predictors.items()}
    shapes = {tuple(sorted(_of_contexts(sums).items())) for sums in asked}
    others = [
        {(name, context): weight for context, weight in shape}
        for shape in sorted(shapes)
        for name in model.training_conditions[1:]
    ]
    known = [dict(sums) for sums in asked]
    sums = [*known, *(one for one in others if one not in known)]
    train, valid, every = (
        _observed(predictors, inputs, sums, cells) for cells in ("train", "valid", None)
    )
    rows = [[(inputs[c], inputs[c].place[name], w) for (name, c), w in one.items()] for one in sums]
    predicted = PredictedEffects(
        np.array([sum(w * i.predicted.effect[row] for i, row, w in one) for one in rows]),
        np.array([sum(w**2 * i.predicted.variance[row] for i, row, w in one) for one in rows]),
    )
    first = np.arange(len(asked))
    prior = fitted_prior(train, valid, predicted, seed=settings.seed)
    observed, predicted = some_rows(every, first), some_rows(predicted, first)
    posterior = prior.of(first).posterior(observed, predicted)
    estimable = np.array([all(i.estimable[row] for i, row, _ in one) for one in rows[: len(asked)]])
    return EffectAnswer(posterior, observed, predicted, prior, estimable), observed.n_cells


def _of_contexts(sums: Mapping[Term, float]) -> dict[str, float]:
    """Return the weights by context of a weighted sum, those of several conditions together."""
    weights: dict[str, float] = {}
    for (_, context), weight in sums.items():
        weights[context] = weights.get(context, 0.0) + weight
    return weights


def _observed(
    predictors: Mapping[str, EffectPosterior],
    inputs: Mapping[str, EffectInputs],
    sums: Sequence[Mapping[Term, float]],
    split: str | None,
) -> ObservedEffects:
    """Return the weighted sums that some cells show, with as many cells as the least term."""
    difference, variance, n_cells, trained_on = {}, {}, {}, {}
    for context, predictor in predictors.items():
        own = inputs[context]
        cells = np.ones(len(predictor.screen), bool) if split is None else predictor.of_split[split]
        of = predictor.differences(own, own.row, cells, n=len(own.place))
        difference[context], variance[context], n_cells[context] = (
            of.difference,
            of.variance,
            of.n_cells,
        )
        trained_on[context] = predictor.trained_on(own.row, cells, n=len(own.place))
    terms = [[(c, inputs[c].place[name], w) for (name, c), w in one.items()] for one in sums]
    return ObservedEffects(
        np.array([sum(w * difference[c][row] for c, row, w in one) for one in terms]),
        np.array([sum(w**2 * variance[c][row] for c, row, w in one) for one in terms]),
        np.array([min(n_cells[c][row] for c, row, _ in one) for one in terms]),
        np.array([np.mean([trained_on[c][row] for c, row, _ in one]) for one in terms]),
        np.full(len(sums), np.nan),
    )
