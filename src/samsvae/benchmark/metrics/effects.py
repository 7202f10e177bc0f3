"""Scores of predicted effects against observed ones: correlation, error, coverage, ranks.

In the formulas a is a predicted effect and d the observed one, both differences from control; p, q
are conditions and g genes. What else a difference is taken from is in the name of the metric.
Scores are `condition`, NaN where one cannot be scored; in ranks, ties count half, or as they would
on average in random order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from scipy.special import ndtri

if TYPE_CHECKING:  # plots need `pearson`, and no torch
    from samsvae.benchmark.metrics.observed import Observed

_ROUNDING = 1e-12
"""A variance below this share of the second moment, or a difference below this share of what it is
taken from, is 0."""
_EQUAL_DISTANCES = 1e-9
"""Distances that differ by less than this share of them are equal."""
_MAX_PAIRS = 2**20
"""Distances that are held in memory at once."""
OTHERS = 1000
"""Conditions that each is ranked among, at most: of more, its neighbours in a random order. The
standard error of a share is then at most .016, and the work does not grow with their square."""
_CHUNK = 128
"""Conditions that are compared with these at once."""
_MIN_DIFFERENCE = 0.02
"""Coverage that differs by less from that of intervals of no width tells nothing."""
_MIN_WEIGHT = 0.9
"""Fold changes of less weight, whose sampling error is about a factor of two or more, do not enter
the variance ratio: the stated errors of genes with a handful of counts are upper limits."""

Distance: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation along the last axis; NaN where either is constant.

    >>> pearson(np.array([[1.0, 2, 3], [1, 1, 1]]), np.array([2.0, 4, 7])).round(3)
    array([0.993,   nan])
    """
    a, b = (np.ascontiguousarray(x, float) for x in (a, b))
    varies = (np.ptp(a, axis=-1) > 0) & (np.ptp(b, axis=-1) > 0)
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies & (norm > 0), (a * b).sum(-1) / norm, np.nan)


def standardised(values: np.ndarray) -> np.ndarray:
    """Return rows centred and of length 1, NaN if constant: their products are correlations."""
    centred = values - values.mean(-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    varies = (np.ptp(values, axis=-1, keepdims=True) > 0) & (length > 0)
    return np.divide(centred, length, out=np.full_like(centred, np.nan), where=varies)


def correlation_per_condition(predicted: pd.DataFrame, true: pd.DataFrame) -> pd.Series:
    """Return the Pearson correlation over genes of each condition's effects, matched by name."""
    matched = predicted.loc[true.index, true.columns]
    return pd.Series(pearson(matched.to_numpy(), true.to_numpy()), true.index)


def paired_means(a: np.ndarray, d: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """Return the means over genes of w a, w d, w a^2, w d^2, w ad and w, `condition 6`."""
    a, d = np.asarray(a, float), np.asarray(d, float)
    products = a, d, a * a, d * d, a * d, np.ones_like(d)
    return np.stack([(weight * product).mean(1) for product in products], -1)


def pearson_of_means(means: np.ndarray) -> np.ndarray:
    """Return cov(a, d) / sqrt(var(a) var(d)) of `paired_means`, which may be averaged.

    A constant prediction scores 0, as chance does; NaN for constant d, where nothing can be scored.
    """
    a, d, aa, dd, ad = _weighted(means)
    var_a, var_d = variance(a, aa), variance(d, dd)
    norm = np.sqrt(var_a * var_d)
    r = np.clip((ad - a * d) / np.where(norm == 0, 1, norm), -1, 1)
    return np.where(var_d == 0, np.nan, np.where(var_a == 0, 0, r))


def r2_of_means(means: np.ndarray) -> np.ndarray:
    """Return 1 - mean (a - d)^2 / var(d) of `paired_means`; NaN for constant d."""
    _, d, aa, dd, ad = _weighted(means)
    return explained(aa - 2 * ad + dd, variance(d, dd))


def _weighted(sums: np.ndarray) -> np.ndarray:
    """Return weighted means of sums whose last is that of the weights, one after the other."""
    *parts, weight = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore"):  # of fold changes of a single cell, which weigh nothing
        return np.stack(parts) / weight


def root_mean(sums: np.ndarray) -> np.ndarray:
    """Return the root of the (weighted) mean of squares, from their sum and that of weights."""
    return np.sqrt(_weighted(sums)[0])


def variance(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Return mean square - mean^2, exactly 0 where only rounding is left of it."""
    centred = square - mean**2
    return np.where(centred <= _ROUNDING * square, 0 * square, centred)


def explained(error: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return 1 - error / total, the explained share of the variance; NaN where nothing varies."""
    return np.where(total == 0, np.nan, 1 - error / np.where(total == 0, 1, total))


def difference(effect: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return effect - other, exactly 0 for a condition where only rounding is left of it."""
    left = effect - other
    square = (np.asarray(effect, float) ** 2).mean(1, keepdims=True)
    return np.where((left**2).mean(1, keepdims=True) <= _ROUNDING * square, 0, left)


def all_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return `paired_means` over all genes."""
    return paired_means(predicted, observed.effect, observed.weight)


def top_genes(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return `paired_means` over each condition's genes of the largest |d|."""
    parts = predicted, observed.effect, observed.weight
    return paired_means(*(np.take_along_axis(x, observed.top, 1) for x in parts))


def pearson_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the correlation over genes of a and d."""
    return pearson_of_means(paired_means(predicted, observed.effect, observed.weight))


def pearson_from_perturbation_mean(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the correlation over genes of a and d, each minus the mean training effect."""
    mean = observed.perturbation_mean
    return pearson_of_means(
        paired_means(
            difference(predicted, mean), difference(observed.effect, mean), observed.weight
        )
    )


def absolute_error(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the mean over genes of |a - d|."""
    error = (observed.weight * np.abs(predicted - observed.effect)).mean(1)
    return np.asarray(_weighted(np.stack([error, observed.weight.mean(1)], -1))[0])


def squared_error(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the means over genes of w (a - d)^2 and of w, `condition 2`."""
    return _squares(predicted, observed.effect, observed.weight)


def mean_square(a: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return the mean over genes of (a - d)^2, and 1, `condition 2`."""
    return _squares(a, d, np.ones_like(d))


def _squares(a: np.ndarray, d: np.ndarray, weight: np.ndarray) -> np.ndarray:
    square = (np.asarray(a, float) - d) ** 2
    return np.stack([(weight * square).mean(1), weight.mean(1)], -1)


def weighted_mse(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return sum_g w_pg (a_pg - d_pg)^2, with the weights `Observed.specificity`."""
    return (observed.specificity * (predicted - observed.effect) ** 2).sum(1)


def weighted_r2_from_control(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return 1 - sum_g w (a - d)^2 / sum_g w (d - sum_g w d)^2."""
    weights, d = observed.specificity, observed.effect
    total = variance((weights * d).sum(1), (weights * d * d).sum(1))
    return explained(weighted_mse(predicted, observed), total)


def interaction(effects: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return what combinations do beyond the sum of their parts, `combination gene`.

    delta_AB - (delta_A + delta_B), of effects, conditions x genes; NaN where one of them is.
    """
    expected = [effects.loc[list(names)].to_numpy(float).sum(0) for names in parts.values()]
    combined = effects.loc[list(parts)].to_numpy(float)
    return difference(combined, np.reshape(expected, combined.shape))


def coverage(
    lower: np.ndarray, upper: np.ndarray, ate: np.ndarray, observed: Observed, level: float = 0.9
) -> np.ndarray:
    """Return the share of genes whose observed effect lies in the widened interval, `condition`.

    The posterior interval is of the true effect, to which the data add their sampling error. So it
    is widened to sqrt((ate - lower)^2 + (z se)^2) below the ATE (or the nearer end, if that is
    outside), and likewise above, with the standard error se of the observed effect and z the normal
    quantile of the level. The share of a calibrated model is then the level, whatever the number of
    cells. Genes without a standard error, or with an infinite one, are left out; NaN without an
    interval, or without genes.
    """
    has_error = (observed.standard_error > 0) & np.isfinite(observed.standard_error)
    error = ndtri((1 + level) / 2) * observed.standard_error
    center = np.clip(ate, lower, upper)
    below, above = np.hypot(center - lower, error), np.hypot(upper - center, error)
    distance = observed.effect - center
    inside = (-below <= distance) & (distance <= above)
    n_genes, n_inside = has_error.sum(1), (has_error & inside).sum(1)
    unknown = (has_error & np.isnan(below + above + distance)).any(1) | (n_genes == 0)
    return np.where(unknown, np.nan, n_inside / np.maximum(n_genes, 1))


def is_uninformative(scores: Mapping[str, float]) -> bool:
    """Whether the coverage among scores, by metric, is that of intervals of no width.

    Then the sampling error of the observed effects hides the errors that intervals are for.

    >>> is_uninformative({"coverage_90": 0.87, "coverage_90_zero_width": 0.86})
    True
    """
    names = "coverage_90", "coverage_90_zero_width"
    given, zero_width = (scores.get(name, np.nan) for name in names)
    return bool(abs(given - zero_width) < _MIN_DIFFERENCE)


def variances(
    lower: np.ndarray, upper: np.ndarray, ate: np.ndarray, observed: Observed, level: float = 0.9
) -> np.ndarray:
    """Return the claimed variance and the excess of squared errors, `condition 2`.

    Means over genes of w^2 v and w^2 ((a - d)^2 - se^2), with the weights w and standard errors se
    of the observed effects. The variance v that an interval claims is that of a normal
    distribution with such an interval, each side on its own: ((a - lower)^2 + (upper - a)^2) / 2
    over the squared normal quantile of the level. The expected excess of a calibrated model is v.
    Weights are squared, since the error of a squared error grows with se^2: otherwise rare genes
    hide all others. Genes without a standard error, or of little weight, are left out.
    """
    error, weight = observed.standard_error, observed.weight
    is_usable = (error > 0) & np.isfinite(error) & (weight >= _MIN_WEIGHT)
    center = np.clip(ate, lower, upper)
    squares = ((center - lower) ** 2 + (upper - center) ** 2) / 2
    claimed = squares / ndtri((1 + level) / 2) ** 2
    excess = (observed.effect - ate) ** 2 - error**2
    both = np.stack([claimed, excess], -1)
    means = np.where(is_usable[..., None], weight[..., None] ** 2 * both, 0).mean(1)
    return np.where(is_usable.any(1)[:, None], means, np.nan)


def variance_ratio(means: np.ndarray) -> np.ndarray:
    """Return claimed variance / excess of squared errors, from the means of both.

    Infinite if errors do not exceed the sampling error, but some variance is claimed; NaN if none
    is.
    """
    claimed, excess = np.moveaxis(means, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(excess > 0, claimed / excess, claimed / np.zeros_like(claimed))


def centroid_accuracy(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the share of other conditions that are farther from the prediction than its own.

    Mean over q != p of [|a_p - d_q| > |a_p - d_p|], Euclidean: 1 best, .5 for a prediction that is
    closest to none in particular (Viñas Torné et al.: Systema, Nature Biotechnology 2025).
    """
    return 1 - _share_closer(predicted, observed.effect, _squared_distance)


def perturbation_discrimination(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the normalised rank of a condition by distance from its prediction, 1 for the first.

    1 - (rank - 1) / (n - 1) of sum_g |a_pg - d_pg| among sum_g |a_pg - d_qg| over q, the smallest
    first, without the genes that p perturbs: predicting their effects takes no model. In the
    Virtual Cell Challenge (Cell 2025) the rank is divided by n.
    """
    from samsvae.ops.arrays import manhattan  # needs torch, which plots do without

    def distance(a: np.ndarray, b: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        of_all_genes = manhattan(a, b)
        distances = of_all_genes.copy()
        for i, row in enumerate(rows):
            targets = list(observed.targets[row])
            distances[i] -= np.abs(a[i, targets] - b[:, targets]).sum(1)
        return distances, of_all_genes

    return 1 - _share_closer(predicted, observed.effect, distance)


def perturbench_rank(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the normalised rank of a prediction by distance from the data, 0 for the first.

    (rank - 1) / (n - 1) of rmse(a_p, d_p) among rmse(a_q, d_p) over q, the smallest first: .5 for a
    predictor that predicts the same for all conditions. In Wu et al., PerturBench, 2024, the rank
    is divided by n, and ties are broken at random.
    """
    # Predictions for conditions without cells are not compared.
    predicted = np.where(np.isnan(observed.effect), np.nan, predicted)
    return _share_closer(observed.effect, predicted, _squared_distance)


def _squared_distance(
    a: np.ndarray, b: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sum_g (a_pg - b_qg)^2 as |a|^2 + |b|^2 - 2 a b, and |a|^2 + |b|^2, `row row`."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    size = (a * a).sum(1)[:, None] + (b * b).sum(1)
    return size - 2 * a @ b.T, size


def _share_closer(a: np.ndarray, b: np.ndarray, distance: Distance) -> np.ndarray:
    """Return the share of the other rows of b that are closer to a row of a than its own row.

    Rows are `condition gene`; one with NaN is not compared. `distance` takes rows of a, rows of b,
    and which rows of a these are; it returns distances, and the size of the terms they result from.
    """
    shares = np.full(len(a), np.nan)
    order = np.flatnonzero(np.isfinite(b).all(1))
    n, reach = len(order), OTHERS // 2
    n_at_once, n_others, is_subsample = max(1, _MAX_PAIRS // max(1, n)), n - 1, n > OTHERS + 1
    if is_subsample:
        order = np.random.default_rng(0).permutation(order)
        n_at_once, n_others = _CHUNK, 2 * reach
    for start in range(0, n, n_at_once):
        place = np.arange(start, min(start + n_at_once, n))
        each = np.arange(len(place))
        own, to = place, order
        if is_subsample:  # neighbours in a circle
            own, to = reach + each, order[np.arange(start - reach, place[-1] + reach + 1) % n]
        rows = order[place]
        beyond, size = distance(a[rows], b[to], rows)
        to_itself = beyond[each, own]
        slack = _EQUAL_DISTANCES * np.maximum(size, size[each, own][:, None])
        beyond -= to_itself[:, None]
        beyond[each, own] = np.nan
        if is_subsample:
            offset = np.arange(len(to)) - each[:, None]
            beyond[(offset < 0) | (offset > n_others)] = np.nan
        closer = (beyond < -slack).sum(1)
        ties = (beyond <= slack).sum(1) - closer
        share = (closer + ties / 2) / max(n_others, 1)
        shares[rows] = np.where(np.isfinite(to_itself) & (n_others > 0), share, np.nan)
    return shares


def de_overlap(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the share of `Observed.significant` genes, S, among the |S| largest |predicted|.

    Ties for the last places count as in random order: a constant prediction scores |S| / G.
    """
    size, significant = np.abs(predicted), observed.significant
    n = significant.sum(1)
    last = np.take_along_axis(-np.sort(-size, axis=1), np.maximum(n, 1)[:, None] - 1, 1)
    above, tied = size > last, size == last
    chance = (n - above.sum(1)) / np.maximum(tied.sum(1), 1)
    hits = (above & significant).sum(1) + chance * (tied & significant).sum(1)
    return _where_scored(hits / np.maximum(n, 1), predicted, observed, n)


def de_auprc(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the average precision of |predicted| for the `Observed.significant` genes, S.

    Mean over genes of S of the share of S among all genes with an effect at least as large.
    """
    size, significant = np.abs(predicted), observed.significant
    ascending, n = np.sort(size, axis=1), significant.sum(1)
    score = np.zeros(len(size))
    for row in np.flatnonzero(n):
        own = np.sort(size[row, significant[row]])
        among_all = size.shape[1] - np.searchsorted(ascending[row], own)
        score[row] = np.mean((n[row] - np.searchsorted(own, own)) / among_all)
    return _where_scored(score, predicted, observed, n)


def de_sign_agreement(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the share of `Observed.significant` genes whose effect has the predicted sign."""
    significant = observed.significant
    n = significant.sum(1)
    agree = (significant & (np.sign(predicted) == np.sign(observed.effect))).sum(1)
    return _where_scored(agree / np.maximum(n, 1), predicted, observed, n)


def _where_scored(
    score: np.ndarray, predicted: np.ndarray, observed: Observed, n: np.ndarray
) -> np.ndarray:
    """Return the score, NaN where no gene is significant or an effect is missing."""
    is_complete = np.isfinite(predicted).all(1) & np.isfinite(observed.effect).all(1)
    return np.where(is_complete & (n > 0), score, np.nan)
