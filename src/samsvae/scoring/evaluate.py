"""Every metric of every predictor on held-out cells, beside what could be reached: one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.progress import track

from samsvae.baselines import BASELINES, Baseline, PerturbationMean
from samsvae.data.screen import Screen
from samsvae.data.vocabulary import SPLITS
from samsvae.errors import InputError, check_count, listed, unknown
from samsvae.estimator import Estimator
from samsvae.evaluation.effect_metrics import Metric, bootstrap, pooled
from samsvae.scoring.prediction import Prediction, Predictor, predicted, statistics, vocabulary_of
from samsvae.scoring.subject import Subject, subjects
from samsvae.types import Scale

POOLED = "(all)"
"""Stands for all conditions together in the column "condition"."""
DUPLICATE = "duplicate"
_MEAN = "(perturbation mean)"  # for the dynamic range, whether or not it is asked for


class Scores(NamedTuple):
    """One metric of one predictor."""

    metric: Metric[Any]
    statistics: np.ndarray
    """`condition statistic`."""

    def per_condition(self) -> np.ndarray:
        """Return the score of each condition, NaN where there is none."""
        unknown = np.isnan(self.statistics).any(1)
        return np.where(unknown, np.nan, self.metric.finish(self.statistics))

    def among(self, others: Scores) -> Scores:
        """Return those of the conditions alone that others can be scored on, too."""
        unknown = np.isnan(others.statistics).any(1)[:, None]
        return self._replace(statistics=np.where(unknown, np.nan, self.statistics))

    def all(self) -> np.ndarray:
        """Return the scores of each condition, and of all together: `condition + 1`."""
        return np.append(self.per_condition(), pooled(self.metric, self.statistics))


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
        "seed": seed,
    }
    rows: list[dict[str, Any]] = []
    asked_for = [splits] if isinstance(splits, str) else splits
    scored = subjects(screen, scale, asked_for, n_cells=n_cells, seed=seed)
    work = {**named, _MEAN: PerturbationMean(screen)}
    for subject in scored:
        _check_unseen(named, subject)
        asked = track(
            work.items(),
            f"{subject.label}: effects",
            disable=not progress,
        )
        predictions = {name: predicted(one, subject, **settings) for name, one in asked}
        ranges = _halved(predictions, subject, n_halvings, seed=seed, progress=progress)
        seen = subject.seen()
        for name, predictor in named.items():
            for metric, found in statistics(predictions[name], seen, subject).items():
                shares = ranges[name, metric].shares if (name, metric) in ranges else None
                rows += _rows(subject, name, Scores(*found), shares, seed)
            if isinstance(predictor, Estimator):
                own = _iwelbo(predictor, subject, n_particles, seed=seed, progress=progress)
                rows += _rows(subject, name, own, None, seed)
        for (name, _), halved in ranges.items():
            if name == DUPLICATE:
                rows += _rows(subject, name, halved.scores, halved.shares, seed)
    table = pd.DataFrame(rows)
    table.attrs |= {"scale": scale, "basal": basal}
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
    baselines = [kind(matched) for kind in BASELINES]
    return evaluate([model, *baselines], matched, splits=[split], **settings)


def _named(
    predictors: Mapping[str, Predictor] | Iterable[Predictor] | Predictor,
) -> dict[str, Predictor]:
    """Return predictors by name: those given, or their own, numbered where several share it."""
    if isinstance(predictors, Mapping):
        named = dict(predictors)
    else:
        several = [*predictors] if isinstance(predictors, Iterable) else [predictors]
        own = [getattr(one, "name", type(one).__name__) for one in several]
        named = {}
        for name, one in zip(own, several, strict=True):
            same = sum(key == name or key.startswith(f"{name} ") for key in named)
            named[f"{name} {same + 1}" if own.count(name) > 1 else name] = one
    if not named:
        raise InputError("there are no predictors to evaluate")
    for name, predictor in named.items():
        if not isinstance(predictor, (Estimator, Baseline)):
            raise InputError(
                f"{name!r} is a {type(predictor).__name__}: expected a model or baseline"
            )
        if isinstance(predictor, Estimator) and not predictor.is_trained:
            raise InputError(f"the model {name!r} is not trained: call train first")
        if name in (DUPLICATE, _MEAN):
            raise InputError(f"a predictor cannot be called {name!r}: give it another name")
    return named


def _matched(screen: Screen, predictors: Mapping[str, Predictor]) -> Screen:
    """Return the screen with the genes of the predictors, which must share them."""
    vocabularies = {name: vocabulary_of(one) for name, one in predictors.items()}
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
    scored = subject.screen.cells[subject.group >= 0]
    for name, one in predictors.items():
        known = one.screen.train.cells.isin(scored).sum() if isinstance(one, Baseline) else 0
        if known:
            raise InputError(
                f"the baseline {name!r} was made from a screen with another split: {known} of its "
                f"training cells are {subject.label} cells here; make it from the same screen"
            )


class Halved(NamedTuple):
    """One metric of one predictor over halvings."""

    scores: Scores
    """Mean statistics."""
    shares: np.ndarray
    """Dynamic range, `condition + 1`, all together last."""


def _halved(
    predictions: Mapping[str, Prediction],
    subject: Subject,
    n_halvings: int,
    *,
    seed: int,
    progress: bool,
) -> dict[tuple[str, str], Halved]:
    """Score predictors and a duplicate on halves; return by predictor and metric."""
    found: dict[tuple[str, str], list[Scores]] = {}
    rng = np.random.default_rng(seed)
    for _ in track(range(n_halvings), f"{subject.label}: halves", disable=not progress):
        first, second = subject.halves(rng)
        half = subject.seen(second)
        duplicate = Prediction.of_cells(subject.seen(first))
        for name, prediction in {**predictions, DUPLICATE: duplicate}.items():
            for metric, own in statistics(prediction, half, subject).items():
                found.setdefault((name, metric), []).append(Scores(*own))
    halved = {}
    for (name, metric), scores in found.items():
        if (DUPLICATE, metric) not in found:  # coverage: a duplicate has no intervals
            continue
        ours, top, bottom = (
            np.array([one.among(of).all() for one, of in zip(theirs, scores, strict=True)])
            for theirs in (scores, found[DUPLICATE, metric], found[_MEAN, metric])
        )
        span, best = top - bottom, scores[0].metric.best
        better = np.abs((bottom + span).mean(0) - best) < np.abs(bottom.mean(0) - best)
        clear = better & (np.abs(span.mean(0)) > 2 * span.std(0, ddof=min(1, n_halvings - 1)))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = (ours - bottom).mean(0) / span.mean(0)
        mean = Scores(scores[0].metric, np.mean([one.statistics for one in scores], 0))
        halved[name, metric] = Halved(mean, np.where(clear, shares, np.nan))
    return halved


def _iwelbo(
    model: Estimator, subject: Subject, n_particles: int, *, seed: int, progress: bool
) -> Scores:
    """Return the IWELBO of the scored cells, all alike: so conditions count by their size.

    Control is one of them, the last, but beside unseen conditions.
    """
    group = subject.group
    if subject.label in SPLITS:
        group = np.where(subject.cells & subject.screen.is_control, len(subject.conditions), group)
    cells, group = subject.screen[group >= 0], group[group >= 0]
    settings = {"n_particles": n_particles, "seed": seed}
    try:
        total = np.bincount(group, model.iwelbo(cells, progress=progress, **settings)["iwelbo"])
    except InputError:  # there are conditions that the model has no answer for
        total = np.full(group.max() + 1, np.nan)
        for i in range(len(total)):
            with suppress(InputError):
                own = model.iwelbo(cells[group == i], progress=False, **settings)
                total[i] = own["iwelbo"].sum()
    return Scores(IWELBO, np.stack([total, np.bincount(group)], 1))


def _cells_and_sum(sums: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return sums over the cells of a condition, and their number, as they are."""
    return sums


IWELBO: Metric[np.ndarray] = Metric(
    "iwelbo", _cells_and_sum, lambda sums: sums[..., 0] / sums[..., 1], "observed", best=np.inf
)
"""Mean over cells of their predictive log likelihood, nats."""


def _rows(
    subject: Subject, name: str, scores: Scores, shares: np.ndarray | None, seed: int
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
