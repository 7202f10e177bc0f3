"""What a metric is: statistics of each condition, and a score made of them.

Every metric: its name, how it is computed, where it stands in tables.

A new metric is a function in one of this folder's files and an entry in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from samsvae.benchmark.metrics import effects as of_effects
from samsvae.benchmark.metrics.distances import energy_distance, mmd
from samsvae.benchmark.metrics.effects import coverage, paired_means, pearson_of_means, r2_of_means
from samsvae.benchmark.metrics.moments import Observed
from samsvae.benchmark.metrics.ranks import (
    centroid_accuracy,
    de_auprc,
    de_overlap,
    de_sign_agreement,
    perturbation_discrimination,
    perturbench_rank,
)
from samsvae.benchmark.metrics.records import Clouds, Intervals, Observation, Prediction

Data = TypeVar("Data")
"""What predictions are held against: `Observed`, or plain arrays for interactions."""
Part: TypeAlias = Literal["effects", "interactions", "clouds", "intervals", "likelihood"]
"""What of a prediction a metric scores, see `samsvae.benchmark.metrics.records.Prediction`."""


class Metric(NamedTuple, Generic[Data]):
    """A score of predictions, per condition and for all of them together.

    Both come from the same statistics of each condition, which is why conditions can be resampled
    without scoring them anew.
    """

    name: str
    statistics: Callable[[Any, Data], np.ndarray]
    """From what is predicted (effects: `condition gene`) to `condition statistic`; a condition with
    a NaN cannot be scored."""
    finish: Callable[[np.ndarray], np.ndarray]
    """From statistics, averaged over conditions or not, `... statistic`, to the score, `...`."""
    library_size: Literal["fixed", "observed"]
    """Which effects of a model it scores: at library size 1e4 or at observed ones."""
    best: float
    """The best there is. What predicts the data exactly reaches it; but for `de_overlap` and
    `de_auprc`, where a large effect of a noisy gene may be no significant one."""
    part: Part = "effects"


class Scored(NamedTuple):
    """One metric of one predictor."""

    metric: Metric[Any]
    statistics: np.ndarray
    """`condition statistic`."""

    def per_condition(self) -> np.ndarray:
        """Return the score of each condition, NaN where there is none."""
        unknown = np.isnan(self.statistics).any(1)
        return np.where(unknown, np.nan, self.metric.finish(self.statistics))

    def among(self, others: Scored) -> Scored:
        """Return those of the conditions alone that others can be scored on, too."""
        unknown = np.isnan(others.statistics).any(1)[:, None]
        return self._replace(statistics=np.where(unknown, np.nan, self.statistics))

    def all(self) -> np.ndarray:
        """Return the scores of each condition, and of all together: `condition + 1`."""
        return np.append(self.per_condition(), pooled(self.metric, self.statistics))


def per_condition(metric: Metric[Data], predicted: np.ndarray, observed: Data) -> np.ndarray:
    """Return the score of each condition, NaN where there is none.

    Parameters
    ----------
    metric
        Which.
    predicted
        `condition gene`: in the order of the observed ones.
    observed
        What they are held against.
    """
    return metric.finish(metric.statistics(predicted, observed))


def pooled(metric: Metric[Data], statistics: np.ndarray) -> float:
    """Return the score of all conditions together, from their mean statistics.

    Conditions that cannot be scored are left out; NaN where none can.

    Parameters
    ----------
    metric
        Whose statistics these are.
    statistics
        `condition statistic`.
    """
    rows = _scored(statistics)
    return float(metric.finish(rows.mean(0))) if len(rows) else float("nan")


def bootstrap(
    metric: Metric[Data],
    statistics: np.ndarray,
    *,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of the pooled score over conditions drawn with replacement.

    Conditions that cannot be scored are left out; NaN where fewer than two can. The same seed draws
    the same conditions: so intervals of differences can be had, too.

    Parameters
    ----------
    metric
        Whose statistics these are.
    statistics
        `condition statistic`.
    n_draws
        How often conditions are drawn anew.
    seed
        Of the draws.
    level
        Share of the draws between the two ends.
    """
    rows = _scored(statistics)
    n = len(rows)
    if n < 2:
        return float("nan"), float("nan")
    scores = metric.finish(_drawn(n, n_draws, seed) @ rows / n)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@lru_cache(maxsize=1)
def _drawn(n: int, n_draws: int, seed: int) -> np.ndarray:
    """Return how often each of n conditions is in each draw, `draw condition`.

    Kept: most metrics of most predictors score the same conditions.
    """
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_draws)
    return drawn.astype(float)  # a product of real numbers is the fast one


def _scored(statistics: np.ndarray) -> np.ndarray:
    """Return the conditions that can be scored."""
    return statistics[~np.isnan(statistics).any(1)]


def first(statistics: np.ndarray) -> np.ndarray:
    """Return the only statistic as the score."""
    return statistics[..., 0]


def _mean_of(
    name: str,
    score: Callable[[np.ndarray, Observed], np.ndarray],
    library_size: Literal["fixed", "observed"],
    best: float,
) -> Metric[Observed]:
    """Return the metric whose pooled score is the mean over conditions of a score, `condition`."""
    return Metric(name, lambda a, observed: score(a, observed)[:, None], first, library_size, best)


def _distance_of(
    name: str,
    distance: Callable[[np.ndarray, np.ndarray, float, tuple[float, float]], float],
    within: Callable[[Clouds], list[float]],
) -> Metric[Clouds]:
    """Return the metric whose pooled score is the mean distance of each condition's clouds."""

    def statistics(predicted: Clouds, seen: Clouds) -> np.ndarray:
        found = np.full((len(seen.cells), 1), np.nan)
        for i, (x, y) in enumerate(zip(predicted.cells, seen.cells, strict=True)):
            if x is not None and y is not None and len(y) > 1:
                both = within(predicted)[i], within(seen)[i]
                found[i] = distance(x, y, seen.kernel, both)
        return found

    return Metric(name, statistics, first, "observed", best=0, part="clouds")


def _coverage_of(level: float) -> Metric[Observed]:
    """Return the metric of how many observed effects lie within the intervals of a level."""

    def statistics(intervals: Intervals, observed: Observed) -> np.ndarray:
        return coverage(*intervals.ends[level], intervals.ate, observed, level)[:, None]

    name = f"coverage_{level:.0%}".rstrip("%")
    return Metric(name, statistics, first, "observed", best=level, part="intervals")


def _as_they_are(sums: np.ndarray, _: Any) -> np.ndarray:
    return sums


METRICS: list[Metric[Any]] = [
    # Pooled over conditions x genes.
    Metric("ate_pearson", of_effects.all_genes, pearson_of_means, "fixed", best=1),
    Metric("ate_pearson_top20", of_effects.top_genes, pearson_of_means, "fixed", best=1),
    Metric("ate_pearson_observed_size", of_effects.all_genes, pearson_of_means, "observed", best=1),
    Metric("ate_r2", of_effects.all_genes, r2_of_means, "observed", best=1),
    Metric("ate_r2_top20", of_effects.top_genes, r2_of_means, "observed", best=1),
    Metric("rmse", of_effects.squared_error, of_effects.root, "observed", best=0),
    # Means over conditions.
    _mean_of("mae", of_effects.absolute_error, "observed", best=0),
    _mean_of("pearson_from_control", of_effects.pearson_from_control, "fixed", best=1),
    _mean_of(
        "pearson_from_perturbation_mean",
        of_effects.pearson_from_perturbation_mean,
        "fixed",
        best=1,
    ),
    _mean_of("weighted_mse", of_effects.weighted_mse, "observed", best=0),
    _mean_of("weighted_r2_from_control", of_effects.weighted_r2_from_control, "observed", best=1),
    _mean_of("centroid_accuracy", centroid_accuracy, "observed", best=1),
    _mean_of("perturbation_discrimination", perturbation_discrimination, "observed", best=1),
    _mean_of("perturbench_rank", perturbench_rank, "observed", best=0),
    _mean_of("de_overlap", de_overlap, "observed", best=1),
    _mean_of("de_auprc", de_auprc, "observed", best=1),
    _mean_of("de_sign_agreement", de_sign_agreement, "observed", best=1),
    # Of predicted against observed interactions, pooled over combinations x genes.
    Metric(
        "interaction_pearson",
        paired_means,
        pearson_of_means,
        "fixed",
        best=1,
        part="interactions",
    ),
    Metric(
        "interaction_rmse",
        of_effects.mean_square,
        of_effects.root,
        "observed",
        best=0,
        part="interactions",
    ),
    # Of distributions of cells.
    _distance_of(
        "e_distance", lambda x, y, _, within: energy_distance(x, y, within), lambda c: c.spread
    ),
    _distance_of("mmd", mmd, lambda c: c.likeness),
    # Of intervals.
    _coverage_of(0.5),
    _coverage_of(0.9),
    # Mean over cells of their predictive log likelihood, nats.
    Metric(
        "iwelbo",
        _as_they_are,
        lambda sums: sums[..., 0] / sums[..., 1],
        "observed",
        best=np.inf,
        part="likelihood",
    ),
]
"""All of them, in the order of tables."""

HEADLINES = (
    "iwelbo",
    "ate_pearson",
    "ate_pearson_observed_size",
    "ate_r2",
    "pearson_from_perturbation_mean",
    "perturbation_discrimination",
    "rmse",
    "e_distance",
    "coverage_90",
)
"""Those that are printed where there is no room for all, in this order."""


def of_part(part: Part) -> list[Metric[Any]]:
    """Return the metrics that score one part of a prediction."""
    return [metric for metric in METRICS if metric.part == part]


def scored(prediction: Prediction, seen: Observation) -> dict[str, Scored]:
    """Return every metric that a prediction can be scored on, by name, in the order of tables.

    A condition that is not predicted, or is no combination where only these are scored, is NaN.
    """
    of_effects = _OfEffects(seen.observed)
    found = {}
    for metric in METRICS:
        statistics = (
            of_effects.statistics(metric, prediction.effects[metric.library_size])
            if metric.part == "effects"
            else _statistics(metric, prediction, seen)
        )
        if statistics is not None:
            found[metric.name] = Scored(metric, statistics)
    return found


def _statistics(
    metric: Metric[Any], prediction: Prediction, seen: Observation
) -> np.ndarray | None:
    """Return the statistics of each condition; None where there is nothing that could be scored."""
    predicted: Any = None
    held_against: Any = seen.observed
    match metric.part:
        case "interactions":
            if not len(seen.combinations):
                return None
            beyond = prediction.interactions[metric.library_size]
            statistics = metric.statistics(beyond, seen.interaction)
            return _placed(statistics, seen.combinations, len(seen.observed.conditions))
        case "clouds":
            if seen.clouds is None or prediction.clouds is None:
                return None
            predicted, held_against = prediction.clouds, seen.clouds
        case "intervals":
            predicted = prediction.intervals
        case "likelihood":
            predicted = prediction.likelihood
    return None if predicted is None else metric.statistics(predicted, held_against)


class _OfEffects:
    """Statistics of effects that are predicted and observed; NaN of other conditions.

    Those without a prediction are left out before the others are ranked among each other. What
    several metrics ask of the same effects is taken once.
    """

    def __init__(self, observed: Observed) -> None:
        self.observed, self.comparable = observed, ~np.isnan(observed.effect).any(1)
        self.known: dict[int, tuple[np.ndarray, Observed]] = {}
        self.done: dict[tuple[Any, int], np.ndarray] = {}

    def statistics(self, metric: Metric[Observed], effects: np.ndarray) -> np.ndarray:
        """Return the statistics of each condition for a metric, of effects `condition gene`."""
        if id(effects) not in self.known:
            known = self.comparable & ~np.isnan(effects).any(1)
            among = self.observed if known.all() else self.observed.among(known)
            self.known[id(effects)] = known, among
        known, among = self.known[id(effects)]
        key = metric.statistics, id(effects)
        if key not in self.done:
            self.done[key] = self._taken(metric, effects, known, among)
        return self.done[key]

    def _taken(
        self, metric: Metric[Observed], effects: np.ndarray, known: np.ndarray, among: Observed
    ) -> np.ndarray:
        if known.all():
            return metric.statistics(effects, among)
        if not known.any():
            return np.full_like(metric.statistics(np.zeros_like(effects), self.observed), np.nan)
        statistics = metric.statistics(effects[known], among)
        return _placed(statistics, np.flatnonzero(known), len(effects))


def _placed(statistics: np.ndarray, rows: np.ndarray, n_conditions: int) -> np.ndarray:
    """Return statistics of some conditions as those of all, NaN for the others."""
    placed = np.full((n_conditions, statistics.shape[1]), np.nan)
    placed[rows] = statistics
    return placed
