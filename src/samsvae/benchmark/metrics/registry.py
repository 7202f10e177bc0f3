"""All metrics. A new one is a function in this folder's files and an entry in `METRICS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from samsvae.benchmark.metrics import effects
from samsvae.benchmark.metrics.effects import pearson_of_means, r2_of_means
from samsvae.benchmark.metrics.observed import Intervals, Observation, Observed, Prediction
from samsvae.benchmark.metrics.populations import CellPopulations, energy_distance, mmd

_LEVEL = 0.9
"""Of the intervals whose width is compared with errors."""


class Metric(NamedTuple):
    """A score of predictions, per condition and for all of them together.

    Both come from the same statistics of each condition, which can be resampled.
    """

    name: str
    statistics: Callable[[Any, Any], np.ndarray]
    """From the predicted part and what it is compared with to `condition statistic`; a condition
    with a NaN cannot be scored."""
    finish: Callable[[np.ndarray], np.ndarray]
    """From statistics, averaged over conditions or not, `... statistic`, to the score, `...`."""
    library_size: Literal["fixed", "observed"]
    """Which effects of a model it scores: at library size 1e4 or at observed ones."""
    best: float
    """The best value. What predicts the data exactly reaches it, except for `de_overlap` and
    `de_auprc`, where a large effect of a noisy gene may not be significant."""
    part: Literal["effects", "interactions", "populations", "intervals", "likelihood"] = "effects"
    """Which field of a `Prediction` it scores."""


class Scored(NamedTuple):
    """One metric of one predictor."""

    metric: Metric
    statistics: np.ndarray
    """`condition statistic`."""

    def per_condition(self) -> np.ndarray:
        """Return the score of each condition, NaN where there is none."""
        unscored = np.isnan(self.statistics).any(1)
        return np.where(unscored, np.nan, self.metric.finish(self.statistics))

    def among(self, others: Scored) -> Scored:
        """Return the scores of those conditions alone that others can be scored on, too."""
        unscored = np.isnan(others.statistics).any(1)[:, None]
        return self._replace(statistics=np.where(unscored, np.nan, self.statistics))

    def all(self) -> np.ndarray:
        """Return the scores of each condition, and of all together: `condition + 1`."""
        return np.append(self.per_condition(), pooled(self.metric, self.statistics))


def pooled(metric: Metric, statistics: np.ndarray) -> float:
    """Return the score of all conditions that can be scored, from their mean statistics."""
    rows = _scored_rows(statistics)
    return float(metric.finish(rows.mean(0))) if len(rows) else float("nan")


def bootstrap(
    metric: Metric,
    statistics: np.ndarray,
    *,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the bootstrap interval of the pooled score over conditions; NaN for fewer than two.

    The same seed draws the same conditions: differences of predictors have intervals, too.
    """
    rows = _scored_rows(statistics)
    n = len(rows)
    if n < 2:
        return float("nan"), float("nan")
    return _ends(metric.finish(_resampled(n, n_draws, seed) @ rows / n), level)


def bootstrap_difference(
    own: Scored, other: Scored, *, n_draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Return how much larger a pooled score is than another, with its bootstrap interval.

    Over the conditions that both are scored on; NaN for fewer than two.
    """
    rows = _scored_rows(np.concatenate([own.statistics, other.statistics], 1))
    n, width = len(rows), own.statistics.shape[1]
    if n < 2:
        return float("nan"), float("nan"), float("nan")
    first, second = rows[:, :width], rows[:, width:]
    drawn, finish = _resampled(n, n_draws, seed) / n, own.metric.finish
    with np.errstate(invalid="ignore"):  # between infinite scores
        scores = finish(drawn @ first) - finish(drawn @ second)
        value = finish(first.mean(0)) - finish(second.mean(0))
    return float(value), *_ends(scores, level)


def _ends(scores: np.ndarray, level: float) -> tuple[float, float]:
    """Return the ends of the central interval of draws of a score, which may be infinite."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    below = np.quantile(scores, ends, method="lower")
    with np.errstate(invalid="ignore"):  # between infinite scores
        low, high = np.where(np.isinf(below), below, np.quantile(scores, ends))
    return float(low), float(high)


@lru_cache(maxsize=1)
def _resampled(n: int, n_draws: int, seed: int) -> np.ndarray:
    """Return how often each of n conditions is in each sample, `draw condition`; cached."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_draws)
    return drawn.astype(float)  # a product of real numbers is the fast one


def _scored_rows(statistics: np.ndarray) -> np.ndarray:
    """Return the statistics of the conditions that can be scored."""
    return statistics[~np.isnan(statistics).any(1)]


def _first(statistics: np.ndarray) -> np.ndarray:
    return statistics[..., 0]


def _mean_of(
    name: str,
    score: Callable[[np.ndarray, Observed], np.ndarray],
    library_size: Literal["fixed", "observed"],
    best: float,
) -> Metric:
    """Return the metric whose pooled score is the mean over conditions of a score, `condition`."""

    def statistics(predicted: np.ndarray, observed: Observed) -> np.ndarray:
        return score(predicted, observed)[:, None]

    return Metric(name, statistics, _first, library_size, best)


def _distance_of(
    name: str,
    distance: Callable[[np.ndarray, np.ndarray, float, tuple[float, float]], float],
    within: Callable[[CellPopulations], list[float]],
) -> Metric:
    """Return the metric whose pooled score is the mean distance between two populations."""

    def statistics(predicted: CellPopulations, observed: CellPopulations) -> np.ndarray:
        distances = np.full((len(observed.cells), 1), np.nan)
        for i, (x, y) in enumerate(zip(predicted.cells, observed.cells, strict=True)):
            if x is not None and y is not None and len(y) > 1:
                both = within(predicted)[i], within(observed)[i]
                distances[i] = distance(x, y, observed.bandwidth, both)
        return distances

    return Metric(name, statistics, _first, "observed", best=0, part="populations")


def _coverage_of(level: float, *, is_zero_width: bool = False) -> Metric:
    """Return the metric of how many observed effects lie within the intervals of a level.

    Or within intervals of no width: where as many do, the sampling error hides the model's own.
    """

    def statistics(intervals: Intervals, observed: Observed) -> np.ndarray:
        ate = intervals.ate
        lower, upper = (ate, ate) if is_zero_width else intervals.ends[level]
        return effects.coverage(lower, upper, ate, observed, level)[:, None]

    name = f"coverage_{level:.0%}".rstrip("%") + "_zero_width" * is_zero_width
    return Metric(name, statistics, _first, "observed", best=level, part="intervals")


def _variances(intervals: Intervals, observed: Observed) -> np.ndarray:
    return effects.variances(*intervals.ends[_LEVEL], intervals.ate, observed, _LEVEL)


METRICS: list[Metric] = [
    # Pooled over conditions x genes.
    Metric("ate_pearson", effects.all_genes, pearson_of_means, "fixed", best=1),
    Metric("ate_pearson_top20", effects.top_genes, pearson_of_means, "fixed", best=1),
    Metric("ate_pearson_observed_size", effects.all_genes, pearson_of_means, "observed", best=1),
    Metric("ate_r2", effects.all_genes, r2_of_means, "observed", best=1),
    Metric("ate_r2_top20", effects.top_genes, r2_of_means, "observed", best=1),
    Metric("rmse", effects.squared_error, effects.root_mean, "observed", best=0),
    # Means over conditions.
    _mean_of("mae", effects.absolute_error, "observed", best=0),
    _mean_of("pearson_from_control", effects.pearson_from_control, "fixed", best=1),
    _mean_of(
        "pearson_from_perturbation_mean", effects.pearson_from_perturbation_mean, "fixed", best=1
    ),
    _mean_of("weighted_mse", effects.weighted_mse, "observed", best=0),
    _mean_of("weighted_r2_from_control", effects.weighted_r2_from_control, "observed", best=1),
    _mean_of("centroid_accuracy", effects.centroid_accuracy, "observed", best=1),
    _mean_of(
        "perturbation_discrimination", effects.perturbation_discrimination, "observed", best=1
    ),
    _mean_of("perturbench_rank", effects.perturbench_rank, "observed", best=0),
    _mean_of("de_overlap", effects.de_overlap, "observed", best=1),
    _mean_of("de_auprc", effects.de_auprc, "observed", best=1),
    _mean_of("de_sign_agreement", effects.de_sign_agreement, "observed", best=1),
    # Interactions, pooled over combinations x genes.
    Metric(
        "interaction_pearson", effects.paired_means, pearson_of_means, "fixed", 1, "interactions"
    ),
    Metric(
        "interaction_rmse", effects.mean_square, effects.root_mean, "observed", 0, "interactions"
    ),
    # Distributions of cells.
    _distance_of("e_distance", lambda x, y, _, own: energy_distance(x, y, own), lambda c: c.spread),
    _distance_of("mmd", mmd, lambda c: c.similarity),
    # Posterior intervals.
    Metric("variance_ratio", _variances, effects.variance_ratio, "observed", 1, "intervals"),
    *(
        _coverage_of(level, is_zero_width=is_zero_width)
        for level in (0.5, _LEVEL)
        for is_zero_width in (False, True)
    ),
    # Mean over cells of their predictive log likelihood, nats.
    Metric(
        "iwelbo",
        lambda sums, _: sums,
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
    "variance_ratio",
    "coverage_90",
    "coverage_90_zero_width",
)
"""Those that are printed where there is no room for all, in this order."""


def scored(prediction: Prediction, observation: Observation) -> dict[str, Scored]:
    """Return all metrics of a prediction, by name, in the order of tables.

    A condition that is not predicted, or is no combination where only these are scored, is NaN.
    """
    of_effects = {
        id(effects): _effect_statistics(effects, observation.observed)
        for effects in prediction.effects.values()
    }
    scores = {}
    statistics: np.ndarray | None
    for metric in METRICS:
        if metric.part == "effects":
            of_size = of_effects[id(prediction.effects[metric.library_size])]
            statistics = of_size(metric.statistics)
        else:
            statistics = _statistics(metric, prediction, observation)
        if statistics is not None:
            scores[metric.name] = Scored(metric, statistics)
    return scores


def _statistics(
    metric: Metric, prediction: Prediction, observation: Observation
) -> np.ndarray | None:
    """Return the statistics of each condition; None where there is nothing to score."""
    predicted: Any
    reference: Any = observation.observed
    match metric.part:
        case "interactions":
            if not len(observation.combinations):
                return None
            predicted = prediction.interactions[metric.library_size]
            statistics = metric.statistics(predicted, observation.interaction)
            return _placed(statistics, observation.combinations, len(reference.conditions))
        case "populations":
            predicted, reference = prediction.populations, observation.populations
        case "intervals":
            predicted = prediction.intervals
        case _:
            predicted = prediction.likelihood
    if predicted is None or reference is None:
        return None
    return metric.statistics(predicted, reference)


def _effect_statistics(
    predicted: np.ndarray, observed: Observed
) -> Callable[[Callable[[Any, Any], np.ndarray]], np.ndarray]:
    """Return what computes a metric's statistics of effects, once for the metrics that share them.

    Conditions that are not both predicted and observed are left out before ranks, and NaN.
    """
    rows = ~np.isnan(observed.effect).any(1) & ~np.isnan(predicted).any(1)
    among = observed if rows.all() else observed.among(rows)

    @cache
    def computed(statistics: Callable[[Any, Any], np.ndarray]) -> np.ndarray:
        if rows.all():
            return statistics(predicted, among)
        if not rows.any():
            return np.full_like(statistics(np.zeros_like(predicted), observed), np.nan)
        return _placed(statistics(predicted[rows], among), rows, len(predicted))

    return computed


def _placed(statistics: np.ndarray, rows: np.ndarray, n_conditions: int) -> np.ndarray:
    """Return statistics of some conditions as those of all, NaN for the others."""
    placed = np.full((n_conditions, statistics.shape[1]), np.nan)
    placed[rows] = statistics
    return placed
