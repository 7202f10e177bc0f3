"""Every metric of every predictor on held-out cells, with a technical replicate, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.progress import track

from samsvae.benchmark.baselines import Baseline, PerturbationMean
from samsvae.benchmark.metrics.effects import is_uninformative
from samsvae.benchmark.metrics.registry import Scored, bootstrap, bootstrap_difference, scored
from samsvae.benchmark.predictions import PredictedTables, Predictor, likelihood_of
from samsvae.benchmark.tasks import (
    MEAN,
    REPLICATE,
    EvaluationTask,
    SplitHalfScores,
    evaluation_tasks,
    split_half_scores,
)
from samsvae.data.alignment import align_genes
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed, note
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import ScoreSettings
from samsvae.types import ALL_CONDITIONS, Scale

Predictors: TypeAlias = Mapping[str, Predictor] | Iterable[Predictor] | Predictor
"""One, several, or by the name they get in the table."""
DIFFERENCES = ("difference", "difference_lower", "difference_upper")
"""Columns of how much larger a score is than that of the model, and its interval."""


@checked
@takes(ScoreSettings)
def evaluate(
    predictors: Predictors,
    screen: Screen,
    *,
    scale: Scale | None = None,
    splits: str | Sequence[str] = ("test",),
    **settings: Any,
) -> pd.DataFrame:
    """Score models and baselines on held-out cells, with a technical replicate.

    docs/evaluation.md says which metric answers which question. Controls always come from the data:
    those of the split, or all of the screen's where it has none.

    The *technical replicate* shows how well any predictor could do: the cells of each condition
    (and of control) are split into random halves, and one half predicts the other. A dynamic range
    is

    (score - PerturbationMean) / (replicate - PerturbationMean),

    all three on that same half, averaged over several halvings: 0 is as good as predicting the mean
    of all perturbations for each, 1 as good as repeating the experiment with half of its cells. It
    is NaN where the denominator is within twice its standard deviation over the halvings (they
    share their cells, so they are not that many independent experiments) or the replicate is the
    worse one (few, noisy cells), and for the IWELBO.

    Parameters
    ----------
    predictors
        Trained models and baselines: one, a list, or by the name they get in the table.
    screen
        The whole screen, with its split; matched by gene name.
    scale
        On which effects are compared: "lfc" (by default, for counts), "log" or "normalized" (counts
        per 10,000); "mean" for real values.
    splits
        Whose cells are scored: any of "train", "valid", "test". Conditions of the test cells that
        are not in training are a split "unseen" of their own; "unseen" itself makes it an error
        that any of them is in training.
    **settings
        n_particles (100), effect_particles (2500), n_draws (100), basal ("prior"), n_halvings (20),
        n_cells (200), seed (0), progress; see `samsvae.settings.questions.ScoreSettings`.

    Returns
    -------
    One row per predictor, split, condition and metric: value; lower, upper (95 % bootstrap interval
    over conditions, for condition "(all)"); mc_se, Monte Carlo standard error (of the IWELBO of all
    cells); dynamic_range; n_cells, scored cells of the condition; difference, difference_lower and
    difference_upper, how much larger the value is than that of the model with data (else of the
    first model), with its bootstrap interval; scale. The technical replicate is
    a predictor of this name, scored on halves. A condition that a predictor cannot handle (never
    seen in training, say) is NaN, is named in a warning (for a model), and counted in
    `.attrs["n_left_out"]`, by predictor and split; `.attrs["n_not_estimable"]` counts conditions
    that share no batch with control cells; `.attrs["uninformative_coverage"]` lists the (predictor,
    split) pairs whose coverage is the same, within 0.02, as that of intervals of no width: there
    only the variance ratio tells whether intervals are right.

    Raises
    ------
    InputError
        If there is nothing to score, or a predictor is not trained, has other genes or lacks the
        scale.

    Examples
    --------
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
    """By predictor, with intervals, at library size 1e4; empty without `fixed_draws`."""

    def summary(self, predictor: str) -> dict[str, dict[str, Any]]:
        """Return the scores of a predictor over all conditions, by split and metric; or None.

        Besides: scale, n_particles, n_conditions, n_cells, n_left_out and iwelbo_mc_se.
        """
        attrs = self.scores.attrs
        own = self.scores[self.scores["predictor"] == predictor]
        summaries: dict[str, dict[str, Any]] = {}
        for split, rows in own.groupby("split", sort=False):
            of_all = rows[rows["condition"] == ALL_CONDITIONS].set_index("metric")
            values = of_all["value"].to_dict()
            if "iwelbo" in values:
                values["iwelbo_mc_se"] = of_all.loc["iwelbo", "mc_se"]
            summaries[str(split)] = {
                "scale": attrs["scale"],
                "n_particles": attrs["n_particles"],
                "n_conditions": int((rows["metric"] == "mae").sum()) - 1,
                "n_cells": int(of_all["n_cells"].max()),
                "n_left_out": attrs["n_left_out"][predictor, split],
                **{k: float(value) if np.isfinite(value) else None for k, value in values.items()},
            }
        return summaries


def evaluated(
    predictors: Predictors,
    screen: Screen,
    settings: ScoreSettings,
    *,
    scale: Scale | None = None,
    splits: str | Sequence[str] = ("test",),
    fixed_draws: int = 0,
) -> Evaluation:
    """Score models and baselines as `evaluate` does, and return their effects, too.

    With `fixed_draws`, effects at library size 1e4 have intervals from so many posterior draws.
    """
    named = _named(predictors)
    screen = _aligned(screen, named)
    scale = scale or screen.registry.scales[0]
    tasks = evaluation_tasks(
        screen,
        scale,
        [splits] if isinstance(splits, str) else splits,
        training_conditions={name for one in named.values() for name in one.training_conditions},
        n_cells=settings.n_cells,
        seed=settings.seed,
    )
    for task in tasks:
        _check_heldout(named, task)
    conditions = {name for task in tasks for name in task.conditions}
    if not any(one.answers_for(name) for one in named.values() for name in conditions):
        raise InputError(
            f"no predictor has a prediction for any of the conditions: {listed(sorted(conditions))}"
        )
    # The perturbation mean predicts, too: it is the bottom of dynamic ranges.
    several = named | ({MEAN: PerturbationMean(screen)} if len(screen.train) else {})
    options: dict[str, Any] = {
        "scale": scale,
        "n_particles": settings.effect_particles,
        "n_draws": settings.n_draws,
        "fixed_draws": fixed_draws,
        "basal": settings.basal,
        "batch": "observed",
        "seed": settings.seed,
        "progress": False,
    }
    names = list(dict.fromkeys(name for task in tasks for name in task.all_conditions))
    bar = track(several.items(), "effects", disable=not settings.progress)
    predicted = {name: PredictedTables.of(one, names, **options) for name, one in bar}
    rows = [part for task in tasks for part in _scores(several, task, predicted, settings)]
    table = pd.concat(rows, ignore_index=True).assign(scale=scale)
    table.attrs |= {"scale": scale, "basal": settings.basal, "n_particles": settings.n_particles}
    table.attrs |= _left_out(named, tasks)
    table.attrs["uninformative_coverage"] = _uninformative_coverage(table)
    effects = {name: predicted[name].effects for name in named if predicted[name].effects}
    fixed = {name: sizes["fixed"] for name, sizes in effects.items()} if fixed_draws else {}
    return Evaluation(table, fixed)


def _scores(
    predictors: Mapping[str, Predictor],
    task: EvaluationTask,
    predicted: Mapping[str, PredictedTables],
    settings: ScoreSettings,
) -> Iterator[pd.DataFrame]:
    """Yield the rows of a task: predictors, then the technical replicate."""
    options: dict[str, Any] = {"seed": settings.seed, "progress": settings.progress}
    predictions = {name: predicted[name].on(task, one) for name, one in predictors.items()}
    halves: dict[tuple[str, str], SplitHalfScores] = {}
    if MEAN in predictors:
        halves = split_half_scores(predictions, task, settings.n_halvings, **options)
    observation = task.observation()
    reference = reference_of(predictors)
    of_reference: dict[str, Scored] = {}
    order = sorted((name for name in predictors if name != MEAN), key=lambda n: n != reference)
    tables = {}
    for name in order:
        likelihood, own_mc_se = likelihood_of(
            predictors[name], *task.likelihood_cells(), n_particles=settings.n_particles, **options
        )
        prediction = predictions[name]._replace(likelihood=likelihood)
        scores = scored(prediction, observation)
        if name == reference:
            of_reference = scores
        tables[name] = [
            _rows(
                task,
                name,
                score,
                halves.get((name, metric)),
                seed=settings.seed,
                mc_se=own_mc_se if score.metric.part == "likelihood" else np.nan,
                reference=of_reference.get(metric) if name != reference else None,
            )
            for metric, score in scores.items()
        ]
    yield from (table for name in predictors if name in tables for table in tables[name])
    for (name, _), half in halves.items():
        if name == REPLICATE:
            yield _rows(task, name, half.scores, half, seed=settings.seed)


def reference_of(predictors: Mapping[str, Predictor]) -> str | None:
    """Return which predictor others are compared with: a model with data, else the first model."""
    models = [name for name, one in predictors.items() if not isinstance(one, Baseline)]
    with_data = [name for name in models if not predictors[name].has_likelihood]
    return next(iter([*with_data, *models]), None)


def _left_out(named: Mapping[str, Predictor], tasks: Sequence[EvaluationTask]) -> dict[str, Any]:
    """Count, and name in warnings, the conditions that cannot be scored; see `evaluate`."""
    confounded = [name for task in tasks for name in task.not_estimable]
    if confounded:
        note(
            f"{len(confounded)} conditions share no batch with control cells, so nothing but their "
            f"likelihood can be scored: {listed(confounded)}"
        )
    n_left_out: dict[tuple[str, str], int] = {}
    for predictor, one in named.items():
        for task in tasks:
            missing = [name for name in task.conditions if not one.answers_for(name)]
            if missing and not isinstance(one, Baseline):  # what baselines lack is documented
                note(
                    f"{predictor} has no prediction for {len(missing)} conditions of the "
                    f"{task.label} cells, which are left out: {listed(missing)}"
                )
            n_left_out[predictor, task.label] = len(missing)
    return {"n_not_estimable": len(confounded), "n_left_out": n_left_out}


def _uninformative_coverage(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the predictors and splits whose coverage is that of intervals of no width."""
    pooled = table[table["condition"] == ALL_CONDITIONS]
    return [
        (str(predictor), str(split))
        for (predictor, split), rows in pooled.groupby(["predictor", "split"], sort=False)
        if is_uninformative(rows.set_index("metric")["value"].to_dict())
    ]


def _named(predictors: Predictors) -> dict[str, Predictor]:
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
        if name in (REPLICATE, MEAN):
            raise InputError(f"a predictor cannot be called {name!r}: give it another name")
    return named


def _aligned(screen: Screen, predictors: Mapping[str, Predictor]) -> Screen:
    """Return the screen with the genes of the predictors, which must share them."""
    (first, genes), *others = ((name, one.registry.genes) for name, one in predictors.items())
    for name, other in others:
        if other != genes:
            differ = sorted(set(other) ^ set(genes))
            what = f"{len(differ)} genes ({listed(differ)})" if differ else "their order"
            raise InputError(
                f"the predictors {first!r} and {name!r} differ in {what}: evaluate predictors that "
                "were trained on the same screen"
            )
    return align_genes(screen, genes)


def _check_heldout(predictors: Mapping[str, Predictor], task: EvaluationTask) -> None:
    """Raise if a predictor was fitted on cells that it is to be scored on."""
    if task.label == "train":
        return
    cells = task.screen.cells[task.group >= 0]
    for name, one in predictors.items():
        n_fitted = int(one.fitted_on.isin(cells).sum())
        if n_fitted and isinstance(one, Baseline):
            raise InputError(
                f"the baseline {name!r} was made from a screen with another split: {n_fitted} of "
                f"its training cells are {task.label} cells here; make it from the same screen"
            )
        if n_fitted:
            raise InputError(
                f"{name!r} was fitted on {n_fitted} of the {task.label} cells: it learns from "
                "training and validation cells, so score it on others, splits='test'"
            )


def _rows(
    task: EvaluationTask,
    name: str,
    scores: Scored,
    half: SplitHalfScores | None,
    *,
    seed: int,
    mc_se: float = np.nan,
    reference: Scored | None = None,
) -> pd.DataFrame:
    """Return the rows of one metric of one predictor: conditions, then all of them together.

    `reference` are the scores that the difference is taken from.
    """
    values = scores.all()
    n = len(values)
    names, cells = list(task.conditions), list(task.n_cells)
    if n > len(names) + 1:  # control has a likelihood of its own
        names.append(task.screen.condition_names[0])
        cells.append(scores.statistics[-1, 1])
    lower, upper = bootstrap(scores.metric, scores.statistics, seed=seed)
    missing = np.full(n - 1, np.nan)
    difference = (np.nan,) * 3
    if reference is not None:
        difference = bootstrap_difference(scores, reference, seed=seed)
    ends = dict(zip(DIFFERENCES, difference, strict=True))
    return pd.DataFrame(
        {
            "predictor": name,
            "split": task.label,
            "condition": [*names, ALL_CONDITIONS],
            "metric": scores.metric.name,
            "value": values,
            "lower": [*missing, lower],
            "upper": [*missing, upper],
            "mc_se": [*missing, mc_se],
            "dynamic_range": np.full(n, np.nan) if half is None else half.dynamic_range,
            "n_cells": np.array([*cells, sum(cells)], int),
            **{column: [*missing, value] for column, value in ends.items()},
        }
    )
