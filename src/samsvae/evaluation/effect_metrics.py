"""Scores of predicted effects, each one an instance of `Metric`.

In the formulas a is a predicted effect and d the observed one, both differences from control (the
data's); p, q are conditions and g genes. What else a difference is taken from is in the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from samsvae.evaluation.observed import Observed
from samsvae.evaluation.ranks import (
    centroid_accuracy,
    de_auprc,
    de_overlap,
    de_sign_agreement,
    perturbation_discrimination,
    perturbench_rank,
)

Data = TypeVar("Data")
"""What predictions are held against: `Observed`, or plain arrays for interactions."""

_ROUNDING = 1e-12
"""A variance below this share of the second moment is 0."""
_N_TOP = 20


class Metric(NamedTuple, Generic[Data]):
    """A score of predicted effects, per condition and for all of them together.

    Both come from the same statistics of each condition, which is why conditions can be resampled
    without scoring them anew.
    """

    name: str
    statistics: Callable[[Any, Data], np.ndarray]
    """From predicted effects, `condition gene`, to `condition statistic`; a condition with a NaN
    cannot be scored."""
    finish: Callable[[np.ndarray], np.ndarray]
    """From statistics, averaged over conditions or not, `... statistic`, to the score, `...`."""
    library_size: Literal["fixed", "observed"]
    """Which effects of a model it scores: at library size 1e4 or at observed ones."""
    best: float
    """The best there is. What predicts the data exactly reaches it; but for `de_overlap` and
    `de_auprc`, where a large effect of a noisy gene may be no significant one."""


def per_condition(metric: Metric[Data], predicted: np.ndarray, observed: Data) -> np.ndarray:
    """Return the score of each condition, NaN where there is none.

    Parameters
    ----------
    metric
        One of `METRICS`, or of `INTERACTION_METRICS`.
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
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_draws)
    scores = metric.finish(drawn @ rows / n)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _scored(statistics: np.ndarray) -> np.ndarray:
    """Return the conditions that can be scored."""
    return statistics[~np.isnan(statistics).any(1)]


def _sums(a: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the means over genes of a, d, a^2, d^2 and ad, `condition 5`."""
    a, d = np.asarray(a, float), np.asarray(d, float)
    return np.stack([a.mean(1), d.mean(1), (a * a).mean(1), (d * d).mean(1), (a * d).mean(1)], -1)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Return cov(a, d) / sqrt(var(a) var(d)): 0 for constant a, NaN for constant d."""
    a, d, aa, dd, ad = np.moveaxis(sums, -1, 0)
    var_a, var_d = _variance(a, aa), _variance(d, dd)
    norm = np.sqrt(var_a * var_d)
    r = np.clip((ad - a * d) / np.where(norm == 0, 1, norm), -1, 1)
    return np.where(var_d == 0, np.nan, np.where(var_a == 0, 0, r))


def _r2(sums: np.ndarray) -> np.ndarray:
    """Return 1 - mean (a - d)^2 / var(d), NaN for constant d."""
    _, d, aa, dd, ad = np.moveaxis(sums, -1, 0)
    return _explained(aa - 2 * ad + dd, _variance(d, dd))


def _variance(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Return mean square - mean^2, exactly 0 where only rounding is left of it."""
    variance = square - mean**2
    return np.where(variance <= _ROUNDING * square, 0 * square, variance)


def _explained(error: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return 1 - error / variance, NaN where nothing varies."""
    return np.where(variance == 0, np.nan, 1 - error / np.where(variance == 0, 1, variance))


def first(statistics: np.ndarray) -> np.ndarray:
    """Return the only statistic as the score."""
    return statistics[..., 0]


def _root(statistics: np.ndarray) -> np.ndarray:
    """Return the root of the only statistic as the score."""
    return np.sqrt(statistics[..., 0])


def _all_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the sums over all genes."""
    return _sums(predicted, observed.effect)


def _top_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the sums over each condition's genes of the largest |d|."""
    top = np.argsort(-np.abs(observed.effect), axis=1, kind="stable")[:, :_N_TOP]
    return _sums(*(np.take_along_axis(x, top, 1) for x in (predicted, observed.effect)))


def _pearson_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    return _pearson(_sums(predicted, observed.effect))


def _pearson_from_perturbation_mean(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    mean = observed.perturbation_mean
    return _pearson(_sums(_difference(predicted, mean), _difference(observed.effect, mean)))


def _difference(effect: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return effect - other, exactly 0 for a condition where only rounding is left of it."""
    difference = effect - other
    square = (np.asarray(effect, float) ** 2).mean(1, keepdims=True)
    return np.where((difference**2).mean(1, keepdims=True) <= _ROUNDING * square, 0, difference)


def _absolute_error(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    return np.abs(predicted - observed.effect).mean(1)


def _squared_error(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    return _mean_square(predicted, observed.effect)


def _mean_square(a: np.ndarray, d: np.ndarray) -> np.ndarray:
    return ((np.asarray(a, float) - d) ** 2).mean(1, keepdims=True)


def specificity_weights(observed: Observed) -> np.ndarray:
    """Return how specific a gene's change is to the condition, `condition gene`; each sums to 1.

    w_pg ~ ((|t_pg| - min_g |t_pg|) / (max_g |t_pg| - min_g |t_pg|))^2, t_pg being Welch's t against
    all other cells; uniform where all |t| are equal.

    References
    ----------
    Mejia, Miller et al.: Diversity by Design: Addressing Mode Collapse Improves scRNA-seq
    Perturbation Modeling on Well-Calibrated Metrics, 2025 (there t is against the cells of other
    perturbations, without control).
    """
    t = np.abs(observed.t_rest)
    above = t - t.min(1, keepdims=True)
    span = above.max(1, keepdims=True)
    weights = np.where(span > 0, above / np.where(span > 0, span, 1), 1) ** 2
    return weights / weights.sum(1, keepdims=True)


def _weighted_mse(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return sum_g w_pg (a_pg - d_pg)^2."""
    return (specificity_weights(observed) * (predicted - observed.effect) ** 2).sum(1)


def _weighted_r2_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return 1 - sum_g w (a - d)^2 / sum_g w (d - sum_g w d)^2."""
    weights, d = specificity_weights(observed), observed.effect
    variance = _variance((weights * d).sum(1), (weights * d * d).sum(1))
    return _explained(_weighted_mse(predicted, observed), variance)


def _mean_of(
    name: str,
    score: Callable[[np.ndarray, Observed], np.ndarray],
    library_size: Literal["fixed", "observed"],
    best: float,
) -> Metric[Observed]:
    """Return the metric whose pooled score is the mean over conditions of a score, `condition`."""
    return Metric(name, lambda a, observed: score(a, observed)[:, None], first, library_size, best)


METRICS: list[Metric[Observed]] = [
    # Pooled over conditions x genes.
    Metric("ate_pearson", _all_genes, _pearson, "fixed", best=1),
    Metric("ate_pearson_top20", _top_genes, _pearson, "fixed", best=1),
    Metric("ate_pearson_observed_size", _all_genes, _pearson, "observed", best=1),
    Metric("ate_r2", _all_genes, _r2, "observed", best=1),
    Metric("ate_r2_top20", _top_genes, _r2, "observed", best=1),
    Metric("rmse", _squared_error, _root, "observed", best=0),
    _mean_of("mae", _absolute_error, "observed", best=0),
    _mean_of("pearson_from_control", _pearson_from_control, "fixed", best=1),
    _mean_of("pearson_from_perturbation_mean", _pearson_from_perturbation_mean, "fixed", best=1),
    _mean_of("weighted_mse", _weighted_mse, "observed", best=0),
    _mean_of("weighted_r2_from_control", _weighted_r2_from_control, "observed", best=1),
    _mean_of("centroid_accuracy", centroid_accuracy, "observed", best=1),
    _mean_of("perturbation_discrimination", perturbation_discrimination, "observed", best=1),
    _mean_of("perturbench_rank", perturbench_rank, "observed", best=0),
    _mean_of("de_overlap", de_overlap, "observed", best=1),
    _mean_of("de_auprc", de_auprc, "observed", best=1),
    _mean_of("de_sign_agreement", de_sign_agreement, "observed", best=1),
]
"""All scores of the effects of conditions."""

INTERACTION_METRICS: list[Metric[np.ndarray]] = [
    Metric("interaction_pearson", _sums, _pearson, "fixed", best=1),
    Metric("interaction_rmse", _mean_square, _root, "observed", best=0),
]
"""Scores of predicted against observed `interaction`s, pooled over combinations x genes."""


def interaction(effects: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return what combinations do beyond the sum of their parts, `combination gene`.

    delta_AB - (delta_A + delta_B), in the order of `parts`; NaN where one of them is.

    Parameters
    ----------
    effects
        Conditions x genes.
    parts
        By combination, the conditions that it is made of.

    Raises
    ------
    KeyError
        If a condition is not among the effects.
    """
    expected = [effects.loc[list(names)].to_numpy(float).sum(0) for names in parts.values()]
    combined = effects.loc[list(parts)].to_numpy(float)
    return _difference(combined, np.reshape(expected, combined.shape))
