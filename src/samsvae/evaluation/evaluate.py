"""Every metric of every predictor on held-out cells, beside what could be reached: one table."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.progress import track

from samsvae.data.screen import Screen
from samsvae.data.vocabulary import SPLITS
from samsvae.errors import InputError, check_count, listed, unknown
from samsvae.estimators.base import Estimator
from samsvae.evaluation.baselines import BASELINES, PerturbationMean
from samsvae.evaluation.halves import DUPLICATE, MEAN, halved
from samsvae.evaluation.prediction import predicted
from samsvae.evaluation.predictor import Predictor
from samsvae.evaluation.subject import Subject, subjects
from samsvae.metrics.metric import Scored, bootstrap
from samsvae.metrics.registry import scored
from samsvae.types import Scale

POOLED = "(all)"
"""Stands for all conditions together in the column "condition"."""


def evaluate(
    predictors: Mapping[str, Predictor] | Iterable[Predictor] | Predictor,
    screen: Screen,
    *,
    scale: Scale,
    splits: str | Sequence[str] = ("test",),
    n_particles: int = 100,
    effect_particles: int = 2500,
    n_draws: int = 100,
    basal: Literal["prior", "control"] = "prior",
    n_halvings: int = 20,
    n_cells: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score models and baselines on held-out cells, beside a technical duplicate.

    docs/evaluation.md says which metric answers which question. Controls always come from the data:
    those of the split, or all of the screen's where it has none.

    A *technical duplicate* is what could be reached: the cells of each condition (and of control)
    are halved at random, and one half predicts the other. A dynamic range is

    (score - PerturbationMean) / (duplicate - PerturbationMean),

    all three on that same half, the means of some halvings: 0 is as good as predicting the mean of
    all perturbations for each, 1 as good as repeating the experiment with half of its cells. It is
    NaN where the denominator is within twice its standard deviation over the halvings (they share
    their cells, so they are not that many independent experiments) or the duplicate is the worse
    one (few, noisy cells), and for the IWELBO.

    Parameters
    ----------
    predictors
        Trained models and baselines: one, a list, or by the name they get in the table.
    screen
        The whole screen, with its split.
    scale
        On which effects are compared: "log" or "normalized"; "mean" for models without a library
        size.
    splits
        Whose cells are scored: any of "train", "valid", "test". Conditions of the test cells that
        are not in training stand apart, as split "unseen"; to ask for "unseen" itself makes it an
        error that any of them is in training.
    n_particles
        Of the IWELBO.
    effect_particles, n_draws, basal
        Of the models' effects; see `SAMSVAE.effects`. Each is asked at library size 1e4, for
        correlations, and at the observed ones, for errors and coverage.
    n_halvings
        Of the technical duplicate; 0: none, and no dynamic range.
    n_cells
        Most cells of a condition whose distribution is compared (E-distance, MMD); 0: neither.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.

    Returns
    -------
    One row per predictor, split, condition and metric: value; lower, upper (95 % over conditions
    drawn anew, for condition "(all)"); dynamic_range; n_cells, scored cells of the condition.
    Predictor "duplicate" is the technical duplicate, on halves. A condition that a predictor has no
    answer for (never seen in training, say) has NaN.

    Raises
    ------
    InputError
        If there is nothing to score, a predictor is not trained, has other genes or lacks the
        scale, or an argument is out of range.

    Examples
    --------
    >>> import samsvae
    >>> screen = samsvae.datasets.simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20)
    >>> predictors = [samsvae.baselines.NoChange(screen), samsvae.baselines.ConditionMean(screen)]
    >>> table = evaluate(predictors, screen, scale="log", n_halvings=2, progress=False)
    >>> pooled = table[(table["condition"] == "(all)") & (table["split"] == "test")]
    >>> scores = pooled.pivot(index="metric", columns="predictor", values="value")
    >>> bool(scores.loc["rmse", "condition-mean"] < scores.loc["rmse", "no-change"])
    True
    """
    named = _named(predictors)
    check_count("n_particles", n_particles)
    for name, value in {"n_halvings": n_halvings, "n_cells": n_cells, "seed": seed}.items():
        check_count(name, value, low=0)
    if basal not in ("prior", "control"):
        raise unknown("basal", basal, ["prior", "control"])
    screen = _matched(screen, named)
    settings: dict[str, Any] = {
        "scale": scale,
        "n_particles": effect_particles,
        "n_draws": n_draws,
        "basal": basal,
        "batch": "observed",
        "seed": seed,
    }
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    asked_for = [splits] if isinstance(splits, str) else splits
    work: dict[str, Predictor] = {**named, MEAN: PerturbationMean(screen)}
    for subject in subjects(screen, scale, asked_for, n_cells=n_cells, seed=seed):
        _check_unseen(named, subject)
        asked = track(
            work.items(),
            f"{subject.label}: effects",
            disable=not progress,
        )
        predictions = {name: predicted(one, subject, **settings) for name, one in asked}
        ranges = halved(predictions, subject, n_halvings, seed=seed, progress=progress)
        seen = subject.seen()
        for name, predictor in named.items():
            likelihood = _likelihood(predictor, subject, n_particles, seed=seed, progress=progress)
            prediction = predictions[name]._replace(likelihood=likelihood)
            for metric, score in scored(prediction, seen).items():
                shares = ranges[name, metric].shares if (name, metric) in ranges else None
                rows += _rows(subject, name, score, shares, seed)
        for (name, _), half in ranges.items():
            if name == DUPLICATE:
                rows += _rows(subject, name, half.scores, half.shares, seed)
        left_out += [
            name
            for name, effect in zip(subject.conditions, seen.observed.effect, strict=True)
            if np.isnan(effect).any()
        ]
    if left_out:
        warnings.warn(
            f"{len(left_out)} conditions share no batch with control cells, so nothing can be "
            f"scored of them but their likelihood: {listed(left_out)}",
            stacklevel=2,
        )
    table = pd.DataFrame(rows)
    table.attrs |= {"scale": scale, "basal": basal, "n_not_identified": len(left_out)}
    return table


def beside_baselines(
    model: Estimator, screen: Screen, *, split: str, **settings: Any
) -> pd.DataFrame:
    """Return the scores of a model, of all baselines and of a technical duplicate on a split.

    Parameters
    ----------
    model
        Trained.
    screen
        The whole screen; matched by gene and perturbation name.
    split
        Whose cells are scored.
    **settings
        As in `evaluate`.
    """
    matched, _ = screen.matched_to(model.facts.vocabulary)
    predictors: list[Predictor] = [model, *(kind(matched) for kind in BASELINES)]
    return evaluate(predictors, matched, splits=[split], **settings)


def _named(
    predictors: Mapping[str, Predictor] | Iterable[Predictor] | Predictor,
) -> dict[str, Predictor]:
    """Return predictors by name: those given, or their own, numbered where several share it."""
    if isinstance(predictors, Mapping):
        named = dict(predictors)
    else:
        several = [*predictors] if isinstance(predictors, Iterable) else [predictors]
        names = [getattr(one, "name", type(one).__name__) for one in several]
        named = {}
        for name, one in zip(names, several, strict=True):
            same = sum(key == name or key.startswith(f"{name} ") for key in named)
            named[f"{name} {same + 1}" if names.count(name) > 1 else name] = one
    if not named:
        raise InputError("there are no predictors to evaluate")
    for name, predictor in named.items():
        if isinstance(predictor, type) or not hasattr(predictor, "effects"):
            raise InputError(
                f"{name!r} is a {type(predictor).__name__}: expected a model or baseline"
            )
        if not predictor.is_trained:
            raise InputError(f"the model {name!r} is not trained: call train first")
        if name in (DUPLICATE, MEAN):
            raise InputError(f"a predictor cannot be called {name!r}: give it another name")
    return named


def _matched(screen: Screen, predictors: Mapping[str, Predictor]) -> Screen:
    """Return the screen with the genes of the predictors, which must share them."""
    vocabularies = {name: one.vocabulary for name, one in predictors.items()}
    (first, known), *others = vocabularies.items()
    for name, other in others:
        differ = set(other.genes) ^ set(known.genes)
        if differ or other.genes != known.genes:
            what = f"{len(differ)} genes ({listed(sorted(differ))})" if differ else "their order"
            raise InputError(
                f"the predictors {first!r} and {name!r} differ in {what}: evaluate predictors that "
                "were trained on the same screen"
            )
    return screen.matched_to(replace(screen.vocabulary, genes=known.genes))[0]


def _check_unseen(predictors: Mapping[str, Predictor], subject: Subject) -> None:
    """Raise if a baseline was made from cells that it is to be scored on."""
    if subject.label == "train":
        return
    cells = subject.screen.cells[subject.group >= 0]
    for name, one in predictors.items():
        known = int(one.remembered.isin(cells).sum())
        if known:
            raise InputError(
                f"the baseline {name!r} was made from a screen with another split: {known} of its "
                f"training cells are {subject.label} cells here; make it from the same screen"
            )


def _likelihood(
    predictor: Predictor, subject: Subject, n_particles: int, *, seed: int, progress: bool
) -> np.ndarray | None:
    """Return the sum of the IWELBO over each condition's scored cells, and how many these are.

    `condition 2`; cells are all alike, so conditions count by their size. Control is one of them,
    the last, but beside unseen conditions. None: the predictor has no likelihood.
    """
    group = subject.group
    if subject.label in SPLITS:
        group = np.where(subject.cells & subject.screen.is_control, len(subject.conditions), group)
    cells, group = subject.screen[group >= 0], group[group >= 0]
    settings = {"n_particles": n_particles, "seed": seed}
    try:
        each = predictor.iwelbo(cells, progress=progress, **settings)
        if each is None:
            return None
        total = np.bincount(group, each["iwelbo"])
    except InputError:  # there are conditions that the model has no answer for
        total = np.full(group.max() + 1, np.nan)
        for i in range(len(total)):
            with suppress(InputError):
                of_condition = predictor.iwelbo(cells[group == i], progress=False, **settings)
                total[i] = np.nan if of_condition is None else of_condition["iwelbo"].sum()
    return np.stack([total, np.bincount(group)], 1)


def _rows(
    subject: Subject, name: str, scores: Scored, shares: np.ndarray | None, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one metric of one predictor."""
    values = scores.all()
    shares = np.full(len(values), np.nan) if shares is None else shares
    names, cells = list(subject.conditions), list(subject.n_cells)
    if len(values) > len(names) + 1:  # control has a score of its own
        names.append(subject.screen.condition_names[0])
        cells.append(scores.statistics[-1, 1])
    lower, upper = bootstrap(scores.metric, scores.statistics, seed=seed)
    for i, condition in enumerate((*names, POOLED)):
        together = condition == POOLED
        yield {
            "predictor": name,
            "split": subject.label,
            "condition": condition,
            "metric": scores.metric.name,
            "value": values[i],
            "lower": lower if together else np.nan,
            "upper": upper if together else np.nan,
            "dynamic_range": shares[i],
            "n_cells": int(sum(cells) if together else cells[i]),
        }
