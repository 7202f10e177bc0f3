"""Every metric of every predictor on held-out cells, beside what could be reached: one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.progress import track

from samsvae.benchmark.baselines import Baseline, PerturbationMean
from samsvae.benchmark.heldout import DUPLICATE, MEAN, Halved, Subject, halved, subjects
from samsvae.benchmark.metrics.registry import Scored, bootstrap, scored
from samsvae.benchmark.predictions import Answers, Likelihood
from samsvae.benchmark.predictor import Predictor
from samsvae.data.alignment import align_genes
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed, note
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import ScoreSettings
from samsvae.types import Scale

POOLED = "(all)"
"""Stands for all conditions together in the column "condition"."""


@checked
@takes(ScoreSettings)
def evaluate(
    predictors: Mapping[str, Predictor] | Iterable[Predictor] | Predictor,
    screen: Screen,
    *,
    scale: Scale,
    splits: str | Sequence[str] = ("test",),
    **settings: Any,
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
    **settings
        How: n_particles (100), effect_particles (2500), n_draws (100), basal ("prior"), n_halvings
        (20), n_cells (200), seed (0), progress; see `samsvae.settings.questions.ScoreSettings`.

    Returns
    -------
    One row per predictor, split, condition and metric: value; lower, upper (95 % over conditions
    drawn anew, for condition "(all)"); mc_se, Monte Carlo standard error (of the IWELBO of all
    cells); dynamic_range; n_cells, scored cells of the condition. Predictor "duplicate" is the
    technical duplicate, on halves. A condition that a predictor has no answer for (never seen in
    training, say) has NaN, is named in a warning (of a model), and counted in
    `.attrs["n_left_out"]`, by predictor and split; in `.attrs["n_not_identified"]` those that
    share no batch with control cells.

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
    return evaluated(
        predictors, screen, ScoreSettings(**settings), scale=scale, splits=splits
    ).scores


class Evaluation(NamedTuple):
    """Scores of predictors, and the effects that were scored."""

    scores: pd.DataFrame
    """As `evaluate` returns them."""
    effects: dict[str, AnnData]
    """By predictor, if asked for with intervals: of the conditions that it answers for, at library
    size 1e4."""

    def summary(self, predictor: str) -> dict[str, dict[str, Any]]:
        """Return what a predictor scored over all conditions, by split and metric.

        None stands for what could not be scored. Beside the metrics: scale, n_particles of the
        IWELBO, n_conditions, n_cells (control's among them where their likelihood is scored),
        n_left_out (conditions without an answer) and iwelbo_mc_se.
        """
        attrs = self.scores.attrs
        own = self.scores[self.scores["predictor"] == predictor]
        found: dict[str, dict[str, Any]] = {}
        for split, rows in own.groupby("split", sort=False):
            of_all = rows[rows["condition"] == POOLED].set_index("metric")
            one = rows[rows["metric"] == "mae"]
            values = of_all["value"].to_dict()
            if "iwelbo" in values:
                values["iwelbo_mc_se"] = of_all.loc["iwelbo", "mc_se"]
            found[str(split)] = {
                "scale": attrs["scale"],
                "n_particles": attrs["n_particles"],
                "n_conditions": len(one) - 1,
                "n_cells": int(of_all["n_cells"].max()),
                "n_left_out": attrs["n_left_out"][predictor, split],
                **{k: None if np.isnan(value) else float(value) for k, value in values.items()},
            }
        return found


def evaluated(
    predictors: Mapping[str, Predictor] | Iterable[Predictor] | Predictor,
    screen: Screen,
    given: ScoreSettings,
    *,
    scale: Scale,
    splits: str | Sequence[str] = ("test",),
    fixed_draws: int = 0,
) -> Evaluation:
    """Score models and baselines as `evaluate` does; return their effects, too.

    These have intervals of so many draws as `fixed_draws` says: scores need none. A screen without
    training cells has no mean of all perturbations and no space of cells to compare with, and no
    duplicate.
    """
    named = _named(predictors)
    screen = _matched(screen, named)
    asked_for = [splits] if isinstance(splits, str) else splits
    seen_before = {name for one in named.values() for name in one.seen}
    found = subjects(
        screen, scale, asked_for, seen=seen_before, n_cells=given.n_cells, seed=given.seed
    )
    for subject in found:
        _check_unseen(named, subject)
    scorable = {name for subject in found for name in subject.conditions}
    if not any(one.answers_for(name) for one in named.values() for name in scorable):
        raise InputError(
            f"there is no answer for any of the conditions to score: {listed(sorted(scorable))}"
        )
    work = dict(named)
    if len(screen.train):
        work[MEAN] = PerturbationMean(screen)
    conditions = list(dict.fromkeys(name for subject in found for name in subject.asked))
    asked: dict[str, Any] = {
        "scale": scale,
        "n_particles": given.effect_particles,
        "n_draws": given.n_draws,
        "fixed_draws": fixed_draws,
        "basal": given.basal,
        "batch": "observed",
        "seed": given.seed,
        "progress": False,
    }
    bar = track(work.items(), "effects", disable=not given.progress)
    answers = {name: Answers.of(one, conditions, **asked) for name, one in bar}
    rows: list[pd.DataFrame] = []
    for subject in found:
        predictions = {name: answers[name].on(subject, one) for name, one in work.items()}
        ranges: dict[tuple[str, str], Halved] = {}
        if MEAN in work:
            ranges = halved(
                predictions, subject, given.n_halvings, seed=given.seed, progress=given.progress
            )
        observation = subject.seen()
        for name, predictor in named.items():
            likelihood = Likelihood.of(
                predictor,
                *subject.likely(),
                n_particles=given.n_particles,
                seed=given.seed,
                progress=given.progress,
            )
            prediction = predictions[name]._replace(likelihood=likelihood.sums)
            for metric, score in scored(prediction, observation).items():
                shares = ranges[name, metric].shares if (name, metric) in ranges else None
                mc_se = likelihood.mc_se if score.metric.part == "likelihood" else np.nan
                rows.append(_rows(subject, name, score, shares, given.seed, mc_se))
        for (name, _), half in ranges.items():
            if name == DUPLICATE:
                rows.append(_rows(subject, name, half.scores, half.shares, given.seed, np.nan))
    table = pd.concat(rows, ignore_index=True)
    kept = {"scale": scale, "basal": given.basal, "n_particles": given.n_particles}
    table.attrs |= {**kept, **_left_out(named, found)}
    if not fixed_draws:
        return Evaluation(table, {})
    effects = {name: answers[name].effects for name in named if answers[name].effects}
    return Evaluation(table, {name: sizes["fixed"] for name, sizes in effects.items()})


def _left_out(named: Mapping[str, Predictor], found: Sequence[Subject]) -> dict[str, Any]:
    """Count, and name in warnings, the conditions that cannot be scored.

    `n_not_estimable`: those that share no batch with control cells; `n_left_out`, by predictor
    and split: those that it has no answer for.
    """
    confounded = [name for subject in found for name in subject.not_identified]
    if confounded:
        note(
            f"{len(confounded)} conditions share no batch with control cells, so nothing can be "
            f"scored of them but their likelihood: {listed(confounded)}"
        )
    counted: dict[tuple[str, str], int] = {}
    for predictor, one in named.items():
        for subject in found:
            unanswered = [name for name in subject.conditions if not one.answers_for(name)]
            if unanswered and not isinstance(one, Baseline):  # of these it is known
                note(
                    f"{predictor} has no answer for {len(unanswered)} conditions of the "
                    f"{subject.label} cells, which are left out: {listed(unanswered)}"
                )
            counted[predictor, subject.label] = len(unanswered)
    return {"n_not_estimable": len(confounded), "n_left_out": counted}


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
    vocabularies = {name: one.registry for name, one in predictors.items()}
    (first, known), *others = vocabularies.items()
    for name, other in others:
        differ = set(other.genes) ^ set(known.genes)
        if differ or other.genes != known.genes:
            what = f"{len(differ)} genes ({listed(sorted(differ))})" if differ else "their order"
            raise InputError(
                f"the predictors {first!r} and {name!r} differ in {what}: evaluate predictors that "
                "were trained on the same screen"
            )
    return align_genes(screen, known.genes)


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


def _rows(
    subject: Subject, name: str, scores: Scored, shares: np.ndarray | None, seed: int, mc_se: float
) -> pd.DataFrame:
    """Return the rows of one metric of one predictor."""
    values = scores.all()
    n = len(values)
    names, cells = list(subject.conditions), list(subject.n_cells)
    if n > len(names) + 1:  # control has a score of its own
        names.append(subject.screen.condition_names[0])
        cells.append(scores.statistics[-1, 1])
    lower, upper = bootstrap(scores.metric, scores.statistics, seed=seed)
    return pd.DataFrame(
        {
            "predictor": name,
            "split": subject.label,
            "condition": [*names, POOLED],
            "metric": scores.metric.name,
            "value": values,
            "lower": _of_all(lower, n),
            "upper": _of_all(upper, n),
            "mc_se": _of_all(mc_se, n),
            "dynamic_range": np.full(n, np.nan) if shares is None else shares,
            "n_cells": np.array([*cells, sum(cells)], int),
        }
    )


def _of_all(value: float, n: int) -> np.ndarray:
    """Return what is known of all conditions together alone: of the last of n rows."""
    return np.append(np.full(n - 1, np.nan), value)
