"""How well a model fitted to a simulated screen recovers its truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.optimize import linear_sum_assignment

from samsvae.data.screen import Screen
from samsvae.data.simulate import SimulatedScreen
from samsvae.errors import InputError
from samsvae.evaluation.differential_expression import differential_expression
from samsvae.evaluation.metrics import pearson
from samsvae.types import Scale


class Recovering(Protocol):
    """What is asked of the model."""

    def mask_probabilities(self) -> pd.DataFrame: ...

    def latent(self, screen: Screen, *, seed: int = 0) -> dict[str, np.ndarray]: ...

    def effects(
        self,
        conditions: str | Sequence[str] | None = None,
        *,
        scale: Scale | None = None,
        n_draws: int = 100,
        seed: int = 0,
        progress: bool = True,
    ) -> AnnData: ...


@dataclass(frozen=True)
class Recovery:
    """How much of a simulated screen's truth a model recovered."""

    mask_f1: float
    """Of the mask (posterior probability > 1/2) after matching latent dimensions; what is of masks
    is NaN for a model without one."""
    mask_precision: float
    mask_recall: float
    mask_matthews: float
    random_mask_f1: float
    """Of masks at random with as many entries."""
    full_mask_f1: float
    """Of a mask that lets everything through."""
    states: float
    """Mean correlation of the true latent dimensions with those they match, over held-out cells
    of conditions seen in training."""
    singles: float
    """Median over perturbations of the correlation of effects with the truth."""
    unseen_combinations: float
    """The same over combinations never seen in training; NaN for a model without an answer."""
    observed_singles: float
    """The same of differential expression between training cells, for singles."""
    sum_of_observed_singles: float
    """The same of its sum over the parts, for combinations never seen in training."""


def recovery(model: Recovering, screen: SimulatedScreen, *, seed: int = 0) -> Recovery:
    """Compare a trained model with the truth of a simulated screen.

    Effects are on scale "normalized", correlated over genes, medians over conditions.

    Parameters
    ----------
    model
        Trained on the screen.
    screen
        From `samsvae.simulated_screen`.
    seed
        Same seed, same numbers.
    """
    seen = set(screen.train.conditions)
    singles = list(screen.perturbations)
    combinations = sorted(set(screen.conditions) - seen)
    observed = differential_expression(screen.train, singles, scale="normalized")
    parts = screen.vocabulary.notation.parts
    sums = [observed.loc[parts(name)].sum().rename(name) for name in combinations]
    names = np.array(screen.condition_names)[screen.condition]
    held_out = screen[(np.asarray(screen.split) == "test") & np.isin(names, list(seen))]
    states = model.latent(held_out, seed=seed)["state"]
    return Recovery(
        **_of_mask(model, screen, seed),
        states=mean_correlation(states, held_out.state),
        singles=_of_effects(_asked(model, singles, seed), screen),
        unseen_combinations=_of_effects(_asked(model, combinations, seed), screen),
        observed_singles=_of_effects(observed, screen),
        sum_of_observed_singles=_of_effects(pd.DataFrame(sums), screen),
    )


def _of_mask(model: Recovering, screen: SimulatedScreen, seed: int) -> dict[str, float]:
    truth = screen.truth.mask
    names = [name for name in Recovery.__dataclass_fields__ if "mask" in name]
    try:
        probabilities = model.mask_probabilities()
    except InputError:  # it displaces nothing in latent space
        return dict.fromkeys(names, math.nan)
    fitted, true = (probabilities.loc[truth.index] > 0.5).to_numpy(), truth.to_numpy()
    full = mask_score(np.ones_like(fitted), true).f1
    chance = chance_f1(fitted, true, seed=seed)
    values = (*mask_score(fitted, true), mask_matthews(fitted, true), chance, full)
    return dict(zip(names, values, strict=True))


def _asked(model: Recovering, conditions: list[str], seed: int) -> pd.DataFrame:
    """Return effects of conditions; none, if the model has no answer for them (SVAE+)."""
    try:
        effects = model.effects(
            conditions, scale="normalized", n_draws=0, seed=seed, progress=False
        )
    except InputError:
        return pd.DataFrame()
    return effects.to_df()


def _of_effects(effects: pd.DataFrame, screen: SimulatedScreen) -> float:
    true = screen.truth.effects(list(effects.index))
    return float(correlation_per_condition(effects, true).median())


def matched_overlap(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many entries binary masks share, latent dimensions matched to share most.

    One to one, by the Hungarian method: the dimensions of a model come in no particular order.

    Parameters
    ----------
    first, second
        `perturbation latent`, binary; the numbers of latent dimensions may differ.
    """
    overlap = np.asarray(first, float).T @ np.asarray(second, float)
    return round(overlap[linear_sum_assignment(overlap, maximize=True)].sum())


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
    hits = matched_overlap(fitted, true)
    precision = hits / max(1, fitted.sum())
    recall = hits / max(1, true.sum())
    return MaskScore(2 * hits / max(1, fitted.sum() + true.sum()), precision, recall)


def mask_matthews(fitted: np.ndarray, true: np.ndarray) -> float:
    """Return the Matthews correlation of a fitted mask with the true one, dimensions matched.

    The Pearson correlation of their entries: 1 for the same mask, 0 for one without entries or all
    ones (where F1 is above 0). Masks are matched as in `mask_score`, which lifts a random one above
    0; the one of fewer dimensions gets empty ones. Dimensions that the fitted mask does not use are
    not counted, so that their number does not matter.

    Parameters
    ----------
    fitted
        `perturbation latent`, binary.
    true
        `perturbation true_latent`, binary.

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

    Mean over true dimensions of |Pearson r| over cells, matched one to one to the largest sum (the
    Hungarian method): the MCC of the literature on identifiability, 1 where every dimension is
    recovered up to order, sign, scale and origin. A true dimension without a partner counts 0, and
    so does a constant one.

    Parameters
    ----------
    fitted
        States, `cell latent`.
    true
        States of the same cells, `cell true_latent`.

    Raises
    ------
    InputError
        If they are not states of the same number of cells.

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
    r = np.abs(_standardised(fitted).T @ _standardised(true))
    return float(r[linear_sum_assignment(r, maximize=True)].sum() / r.shape[1])


def _standardised(values: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and norm 1, constant ones as 0."""
    values = np.asarray(values, np.float64)
    varies = np.ptp(values, axis=0) > 0
    centered = np.where(varies, values - values.mean(0), 0.0)
    return centered / np.where(varies, np.linalg.norm(centered, axis=0), 1.0)


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
