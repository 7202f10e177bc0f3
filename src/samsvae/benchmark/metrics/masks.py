"""Agreement of masks, shifts and states: latent dimensions are matched one to one before.

The dimensions of a model come in no particular order, so they are matched by the Hungarian method.
Masks and shifts are `perturbation latent`, states `cell latent`; numbers of dimensions may differ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from samsvae.benchmark.metrics.effects import standardised
from samsvae.errors import InputError


def matched_overlap(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many entries binary masks, `perturbation latent`, share when matched for most."""
    overlap = np.asarray(first, float).T @ np.asarray(second, float)
    return round(overlap[linear_sum_assignment(overlap, maximize=True)].sum())


def matched_truth(fitted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the true mask in the dimensions of the fitted one, `perturbation latent`, boolean.

    Matched to share as many entries as possible; empty in a dimension without a partner.
    """
    overlap = np.asarray(fitted, float).T @ np.asarray(true, float)
    ours, theirs = linear_sum_assignment(overlap, maximize=True)
    matched = np.zeros(np.shape(fitted), bool)
    matched[:, ours] = np.asarray(true, bool)[:, theirs]
    return matched


class MaskScore(NamedTuple):
    """Agreement of a fitted mask with the true one, after matching latent dimensions."""

    f1: float
    precision: float
    recall: float


def mask_score(fitted: np.ndarray, true: np.ndarray) -> MaskScore:
    """Return precision and recall of the entries of a binary mask, dimensions matched.

    All entries of a fitted dimension without a partner are false positives.

    Examples
    --------
    >>> score = mask_score(np.array([[0, 1], [1, 0]]), np.array([[1, 0], [0, 1]]))
    >>> float(score.f1)  # dimensions in any order
    1.0
    """
    fitted, true = np.asarray(fitted, bool), np.asarray(true, bool)
    hits = matched_overlap(fitted, true)
    precision = hits / max(1, fitted.sum())
    recall = hits / max(1, true.sum())
    return MaskScore(2 * hits / max(1, fitted.sum() + true.sum()), precision, recall)


def mask_matthews(fitted: np.ndarray, true: np.ndarray) -> float:
    """Return the Matthews correlation of a fitted mask with the true one, dimensions matched.

    The Pearson correlation of their entries: 1 for the same mask, 0 for one without entries or all
    ones (where F1 is above 0); above 0 for a random one, because of the matching. The mask of fewer
    dimensions gets empty ones; dimensions that the fitted mask does not use are not counted.

    References
    ----------
    Matthews: Comparison of the predicted and observed secondary structure of T4 phage lysozyme,
    Biochim. Biophys. Acta 1975.
    """
    fitted, true = np.asarray(fitted, bool), np.asarray(true, bool)
    n = len(true) * max(int(fitted.any(0).sum()), true.shape[1])
    n_fitted, n_true = int(fitted.sum()), int(true.sum())
    scale = math.sqrt(n_fitted * (n - n_fitted) * n_true * (n - n_true))
    covariance = n * matched_overlap(fitted, true) - n_fitted * n_true
    return covariance / scale if scale else 0.0


def mean_correlation(fitted: np.ndarray, true: np.ndarray) -> float:
    """Return the mean correlation of true latent dimensions with the fitted ones they match.

    Mean over true dimensions of |Pearson r| over cells, matched for the largest sum: the MCC of the
    literature on identifiability, 1 where every dimension is recovered up to order, sign, scale and
    origin. A true dimension without a partner, or a constant one, counts as 0.

    References
    ----------
    Hyvarinen, Morioka: Unsupervised feature extraction by time-contrastive learning and nonlinear
    ICA, NeurIPS 2016.
    """
    if len(fitted) != len(true):
        raise InputError(
            f"got fitted states of {len(fitted)} cells and true states of {len(true)}: expected "
            "the same cells, in the same order"
        )
    a, b = (np.nan_to_num(standardised(np.asarray(x, np.float64).T)) for x in (fitted, true))
    r = np.abs(a @ b.T)
    return float(r[linear_sum_assignment(r, maximize=True)].sum() / r.shape[1])


def turned_onto(states: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return states rotated onto others of the same cells (Procrustes), both centred.

    By the matrix of orthonormal columns Q that maximises trace(Q' states' others); `others` may
    have fewer dimensions.
    """
    a, b = (np.asarray(x, np.float64) - np.mean(x, 0) for x in (states, others))
    left, _, right = np.linalg.svd(a.T @ b, full_matrices=False)
    return a @ (left @ right)


def chance_f1(fitted: np.ndarray, true: np.ndarray, *, n_draws: int = 20, seed: int = 0) -> float:
    """Return the mean F1 of random masks with as many entries as the fitted one."""
    rng = np.random.default_rng(seed)
    fitted = np.asarray(fitted, bool)
    draws = [rng.permutation(fitted.ravel()).reshape(fitted.shape) for _ in range(n_draws)]
    return float(np.mean([mask_score(draw, true).f1 for draw in draws]))


def mask_jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return |A and B| / |A or B| of binary masks, dimensions matched; NaN where both are empty."""
    shared = matched_overlap(first, second)
    either = int(np.sum(first)) + int(np.sum(second)) - shared
    return shared / either if either else float("nan")


def shift_agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the agreement of shifts, axis by axis, and after the best rotation of the second.

    sum over matched dimensions of |a . b| / (|A| |B|); and the sum of the singular values of
    A'B / (|A| |B|), the largest trace over rotations (Procrustes). Both are 1 for the same shifts,
    the second is the larger one; NaN where either has none.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    if not norm > 0:
        return float("nan"), float("nan")
    products = a.T @ b
    size = np.abs(products)
    matched = size[linear_sum_assignment(size, maximize=True)].sum()
    rotated = np.linalg.svd(products, compute_uv=False).sum()
    return float(matched / norm), float(rotated / norm)
