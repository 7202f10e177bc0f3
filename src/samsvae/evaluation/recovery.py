"""How well a model fitted to a simulated screen recovers its truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from samsvae.evaluation.metrics import pearson


class MaskScore(NamedTuple):
    """Agreement of a fitted mask with the true one, after matching latent dimensions."""

    f1: float
    precision: float
    recall: float


def mask_score(fitted: np.ndarray, true: np.ndarray) -> MaskScore:
    """Compare binary masks whose latent dimensions come in no particular order.

    Dimensions are matched one to one (the Hungarian method) so that as many entries as possible
    agree. Whatever a fitted dimension without a partner holds counts as false positive.

    Parameters
    ----------
    fitted
        `perturbation latent`, binary.
    true
        `perturbation true_latent`, binary.
    """
    fitted, true = np.asarray(fitted, bool), np.asarray(true, bool)
    overlap = fitted.T.astype(float) @ true.astype(float)
    hits = overlap[linear_sum_assignment(overlap, maximize=True)].sum()
    precision = hits / max(1, fitted.sum())
    recall = hits / max(1, true.sum())
    return MaskScore(2 * hits / max(1, fitted.sum() + true.sum()), precision, recall)


def chance_f1(fitted: np.ndarray, true: np.ndarray, *, n_draws: int = 20, seed: int = 0) -> float:
    """Return the mean F1 of random masks with as many entries as the fitted one."""
    rng = np.random.default_rng(seed)
    fitted = np.asarray(fitted, bool)
    draws = [rng.permutation(fitted.ravel()).reshape(fitted.shape) for _ in range(n_draws)]
    return float(np.mean([mask_score(draw, true).f1 for draw in draws]))


def correlation_per_condition(predicted: pd.DataFrame, true: pd.DataFrame) -> pd.Series:
    """Return the Pearson correlation over genes of each condition's effects, by condition."""
    values = [pearson(predicted.loc[name], true.loc[name]) for name in true.index]
    return pd.Series(values, true.index)
