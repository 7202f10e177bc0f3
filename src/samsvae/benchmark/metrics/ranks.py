"""Scores from ranks: of conditions by their distance, of genes by the size of their effect.

All take predicted and observed effects, `condition gene`, and return `condition`; NaN where a
condition cannot be scored. Ties count half, or as they would on average in random order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from samsvae.benchmark.metrics.observed import Observed
from samsvae.ops.arrays import manhattan

_ROUNDING = 1e-9
"""Distances that differ by less than this share of them are equal."""
_MAX_PAIRS = 2**20
"""Distances that are held in memory at once."""
OTHERS = 1000
"""Conditions that each is ranked among, at most: of more, its neighbours in a random order. The
standard error of a share is then at most .016, and the work does not grow with their square."""
_CHUNK = 128
"""Conditions that are compared with these at once."""

Distance: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def centroid_accuracy(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the share of other conditions that are farther from the prediction than its own.

    Mean over q != p of [|a_p - d_q| > |a_p - d_p|], Euclidean, for predicted effects a and
    observed effects d: 1 best, .5 for a prediction that is closest to none in particular.

    References
    ----------
    Viñas Torné et al.: Systema: a framework for evaluating genetic perturbation response
    prediction beyond systematic variation, Nature Biotechnology 2025.
    """
    return 1 - _share_closer(predicted, observed.effect, _squared_distance)


def perturbation_discrimination(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the normalised rank of a condition by distance from its prediction, 1 for the first.

    1 - (rank - 1) / (n - 1) of sum_g |a_pg - d_pg| among sum_g |a_pg - d_qg| over q, the smallest
    first, without the genes that p perturbs: predicting their effects takes no model.

    References
    ----------
    Wu et al.: PerturBench, 2024; the Virtual Cell Challenge, Cell 2025 (there the rank is divided
    by n).
    """

    def distance(a: np.ndarray, b: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = manhattan(a, b)
        left = whole.copy()
        for i, row in enumerate(rows):
            targets = list(observed.targets[row])
            left[i] -= np.abs(a[i, targets] - b[:, targets]).sum(1)
        return left, whole

    return 1 - _share_closer(predicted, observed.effect, distance)


def perturbench_rank(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the normalised rank of a prediction by distance from the data, 0 for the first.

    (rank - 1) / (n - 1) of rmse(a_p, d_p) among rmse(a_q, d_p) over q, the smallest first: .5 for a
    predictor that predicts the same for all conditions.

    References
    ----------
    Wu et al.: PerturBench: Benchmarking Machine Learning Models for Cellular Perturbation
    Analysis, 2024 (there the rank is divided by n, and ties are broken at random).
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

    Rows are `condition gene`; one with NaN is not compared. `distance` takes some rows of a, rows
    of b, and which rows of a these are; it returns distances, and the size of the terms that each
    is a difference of, which limits its precision.
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
        slack = _ROUNDING * np.maximum(size, size[each, own][:, None])
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

    Genes that tie for the last places count as in random order: a constant prediction scores
    |S| / G.
    """
    size, wanted = np.abs(predicted), observed.significant
    n = wanted.sum(1)
    last = np.take_along_axis(-np.sort(-size, axis=1), np.maximum(n, 1)[:, None] - 1, 1)
    above, tied = size > last, size == last
    chance = (n - above.sum(1)) / np.maximum(tied.sum(1), 1)
    hits = (above & wanted).sum(1) + chance * (tied & wanted).sum(1)
    return _where_scored(hits / np.maximum(n, 1), predicted, observed, n)


def de_auprc(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the average precision of |predicted| for the `Observed.significant` genes, S.

    Mean over genes of S of the share of S among all genes with an effect at least as large.
    """
    size, wanted = np.abs(predicted), observed.significant
    ascending, n = np.sort(size, axis=1), wanted.sum(1)
    score = np.zeros(len(size))
    for row in np.flatnonzero(n):
        own = np.sort(size[row, wanted[row]])
        among_all = size.shape[1] - np.searchsorted(ascending[row], own)
        score[row] = np.mean((n[row] - np.searchsorted(own, own)) / among_all)
    return _where_scored(score, predicted, observed, n)


def de_sign_agreement(predicted: np.ndarray, observed: Observed) -> np.ndarray:
    """Return the share of `Observed.significant` genes whose effect has the predicted sign."""
    wanted = observed.significant
    n = wanted.sum(1)
    agree = (wanted & (np.sign(predicted) == np.sign(observed.effect))).sum(1)
    return _where_scored(agree / np.maximum(n, 1), predicted, observed, n)


def _where_scored(
    score: np.ndarray, predicted: np.ndarray, observed: Observed, n: np.ndarray
) -> np.ndarray:
    """Return the score, NaN where no gene is significant or an effect is missing."""
    is_complete = np.isfinite(predicted).all(1) & np.isfinite(observed.effect).all(1)
    return np.where(is_complete & (n > 0), score, np.nan)
