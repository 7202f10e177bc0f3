"""How far models agree with each other, and with the truth of a simulated screen.

The dimensions of a model come in no particular order, so they are matched one to one by the
Hungarian method. Masks and shifts are `perturbation latent`, states `cell latent`; numbers of
dimensions may differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.optimize import linear_sum_assignment

from samsvae.analysis.gene_sets import ModelWithMasks
from samsvae.benchmark.metrics.effects import correlation_per_condition, pearson, standardised
from samsvae.data.alignment import align_table
from samsvae.data.conditions import Conditions, parts_matrix
from samsvae.data.fold_changes import differential_expression
from samsvae.data.screen import Screen
from samsvae.data.simulate import SimulatedScreen
from samsvae.errors import InputError, got
from samsvae.estimators.base import Estimator
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.settings.arguments import checked
from samsvae.types import Scale

_N_PERMUTATIONS = 20
"""Behind the overlap that chance alone gives."""
_IN_USE = 0.1
"""Standard deviation of the states in a dimension in use, as a share of the largest, at least."""


class ComparableModel(ModelWithMasks, Protocol):
    """A model as `stability` needs it."""

    metadata: TrainingMetadata

    def latent(self, screen: Screen, *, seed: int = 0) -> dict[str, np.ndarray]: ...

    def effects(self, conditions: Conditions | None = None, **settings: Any) -> AnnData: ...


@checked
def stability(
    models: Sequence[ComparableModel] | Mapping[str, ComparableModel],
    *,
    screen: Screen | None = None,
    conditions: Conditions | None = None,
    scale: Scale | None = None,
    n_particles: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Return how far models of the same screen agree, pair by pair.

    What differs between seeds is not a property of the data. Masks that overlap hardly more than by
    chance cannot be interpreted, however well the models predict.

    Parameters
    ----------
    models
        At least two trained models of any kind and size, say of different seeds; or a mapping from
        their names to them.
    screen
        Cells whose states are compared, say `screen.test`; by default states are not compared.
    conditions
        Whose effects are compared; by default those in the training cells of both models.
    scale, n_particles, seed, progress
        Of the effects, as in `effects`; by default on the models' own scale. Monte Carlo error from
        too few particles reduces agreement.

    Returns
    -------
    One row per pair of models, their latent dimensions matched one to one (the Hungarian method):

    - first, second: their names, or positions;
    - n_first, n_second: entries of their masks (posterior probability > 1/2) over the perturbations
      that both have seen;
    - mask_jaccard: |A and B| / |A or B| of these entries; NaN where both are empty;
    - mask_jaccard_chance: the same with permuted perturbations of the second, mean of 20. Both are
      1 for CPA-VAE;
    - shift_agreement: sum |a . b| / (|A| |B|) over dimensions a, b of shifts A, B (probability *
      embedding), signs free: 1 where perturbations are displaced alike, axis by axis;
    - shift_agreement_rotated: the same after the best rotation of the second; where it is much
      larger, models agree on shifts but not on axes, which are then not identifiable;
    - state_agreement, with a screen: mean |Pearson r| over its cells of the coordinates of their
      states, of the model with fewer dimensions in use (with a standard deviation above a tenth of
      the largest);
    - state_agreement_rotated: the same after the best rotation of the second (Procrustes);
    - effect_pearson, effect_pearson_median: Pearson correlation of their effects, over conditions x
      genes, and its median by condition;
    - scale: of the effects.

    Columns of masks are NaN for a model without one (conditional VAE).

    Raises
    ------
    InputError
        If there are fewer than two models, one is not trained, they differ in genes or scale or
        have no condition in common; and as `effects` does.

    Examples
    --------
    >>> other = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> other = other.train(max_steps=5, seed=1, progress=False)
    >>> table = stability({"seed 0": model, "seed 1": other}, n_particles=20, progress=False)
    >>> table.shape
    (1, 11)
    """
    named = dict[Any, ComparableModel](models if isinstance(models, Mapping) else enumerate(models))
    _check_comparable(named)
    options: dict[str, Any] = {"n_particles": n_particles, "seed": seed, "progress": progress}
    states = {}
    if screen is not None:
        states = {name: model.latent(screen, seed=seed)["state"] for name, model in named.items()}
    effects, latents, scales = {}, {}, set()
    for name, model in named.items():
        adata = model.effects(conditions, scale=scale, n_draws=0, **options)
        table = adata.to_df().set_index(adata.obs["condition"].astype(str))
        table = table[~table.index.duplicated()]  # "B+A" and "A+B" are one
        effects[name] = table.drop(index=model.metadata.conditions[0], errors="ignore")
        latents[name] = _latent(model)
        scales.add(adata.uns["scale"])
    if len(scales) > 1:
        raise InputError(
            f"the models' effects are on different scales ({', '.join(sorted(scales))}): give a "
            "scale that all of them have"
        )
    rows = pd.DataFrame(
        {"first": first, "second": second}
        | _latent_agreement(latents[first], latents[second], seed)
        | (_state_agreement(states[first], states[second]) if states else {})
        | _effect_agreement(first, second, effects)
        for first, second in combinations(named, 2)
    )
    return rows.assign(scale=scales.pop())


Latent: TypeAlias = tuple[pd.DataFrame, pd.DataFrame] | None
"""Mask (binary) and shifts (probability * embedding) of perturbations seen in training, if any."""


def _latent(model: ComparableModel) -> Latent:
    with suppress(InputError):
        probability = model.mask_probabilities().dropna()
        return probability > 0.5, probability * model.embeddings().loc[probability.index]
    return None


def _check_comparable(models: Mapping[Any, ComparableModel]) -> None:
    """Raise unless there are two trained models of the same genes."""
    if len(models) < 2:
        raise InputError(
            f"got {len(models)} models to compare, expected at least two: train another one with "
            "another seed"
        )
    for name, model in models.items():
        if not hasattr(model, "is_trained"):
            raise InputError(f"model {name!r} is {got(model)}: expected a trained model")
        if not model.is_trained:
            raise InputError(f"model {name!r} is not trained: call train first")
    (start, first), *others = models.items()
    genes = set(first.metadata.registry.genes)
    for name, model in others:
        own = set(model.metadata.registry.genes)
        if own != genes:
            raise InputError(
                f"models {start!r} and {name!r} have different genes ({len(genes)} and "
                f"{len(own)}, {len(genes & own)} in common): expected models of the same screen"
            )


def _latent_agreement(first: Latent, second: Latent, seed: int) -> dict[str, float]:
    """Compare masks and shifts of the perturbations that both models have seen."""
    names: tuple[str, ...] = ("n_first", "n_second", "mask_jaccard", "mask_jaccard_chance")
    names += ("shift_agreement", "shift_agreement_rotated")
    if first is None or second is None:
        return dict.fromkeys(names, float("nan"))
    both = sorted(set(first[0].index) & set(second[0].index))
    a, a_shift, b, b_shift = (table.loc[both].to_numpy() for table in (*first, *second))
    rng = np.random.default_rng(seed)
    chance = [mask_jaccard(a, rng.permutation(b)) for _ in range(_N_PERMUTATIONS)]
    overlap = (int(a.sum()), int(b.sum()), mask_jaccard(a, b), float(np.mean(chance)))
    return dict(zip(names, (*overlap, *shift_agreement(a_shift, b_shift)), strict=True))


def _state_agreement(*states: np.ndarray) -> dict[str, float]:
    """Compare states, `cell latent`, in the latent dimensions in which they vary."""
    in_use = (x[:, x.std(0) > _IN_USE * x.std(0).max()] for x in states)
    a, b = sorted(in_use, key=lambda x: -x.shape[1])
    # Procrustes: the matrix of orthonormal columns Q that maximises trace(Q' a' b), both centred.
    turned, onto = (np.asarray(x, np.float64) - np.mean(x, 0) for x in (a, b))
    left, _, right = np.linalg.svd(turned.T @ onto, full_matrices=False)
    return {
        "state_agreement": mean_correlation(a, b),
        "state_agreement_rotated": mean_correlation(turned @ (left @ right), b),
    }


def _effect_agreement(
    first: Any, second: Any, effects: Mapping[Any, pd.DataFrame]
) -> dict[str, float]:
    a, b = effects[first], effects[second]
    both = sorted(set(a.index) & set(b.index))
    if not both:
        raise InputError(
            f"models {first!r} and {second!r} have no condition in common: expected models of the "
            "same screen, or conditions other than control"
        )
    a, b = a.loc[both], align_table(b, genes=list(a.columns), conditions=both)
    return {
        "effect_pearson": float(pearson(a.to_numpy().ravel(), b.to_numpy().ravel())),
        "effect_pearson_median": float(correlation_per_condition(a, b).dropna().median()),
    }


@dataclass(frozen=True)
class Recovery:
    """How much of a simulated screen's truth a model recovered."""

    mask_f1: float
    """Of the mask (posterior probability > 1/2), latent dimensions matched; what concerns masks is
    NaN for a model without one."""
    mask_precision: float
    mask_recall: float
    mask_matthews: float
    random_mask_f1: float
    """Of random masks with as many entries."""
    full_mask_f1: float
    """Of a mask of ones."""
    states: float
    """See `mean_correlation`: over held-out cells of conditions seen in training."""
    singles: float
    """Median over perturbations of the correlation of effects with the truth."""
    unseen_combinations: float
    """The same over combinations never seen in training; NaN for a model without a prediction."""
    observed_singles: float
    """The same for differential expression of training cells, for singles."""
    sum_of_observed_singles: float
    """The same for its sum over the parts, for combinations never seen in training."""


@checked
def recovery(model: Estimator, screen: SimulatedScreen, *, seed: int = 0) -> Recovery:
    """Compare a trained model with the truth of a simulated screen.

    Effects are on scale "normalized" (counts per 10,000), correlated over the model's genes,
    medians over conditions. The model was trained on the screen.

    Examples
    --------
    >>> bool(0 <= recovery(model, screen).mask_f1 <= 1)
    True
    """
    seen = set(screen.train.conditions)
    singles = list(screen.perturbations)
    unseen = sorted(set(screen.conditions) - seen)
    observed = differential_expression(screen.train, singles, scale="normalized")
    parts = parts_matrix(unseen, singles, screen.registry.parser)
    sums = pd.DataFrame(parts @ observed.to_numpy(), unseen, observed.columns)
    names = np.array(screen.condition_names)[screen.condition]
    held_out = screen[(np.asarray(screen.split) == "test") & np.isin(names, list(seen))]
    states = model.latent(held_out, seed=seed)["state"]
    return Recovery(
        **_of_mask(model, screen, seed),
        states=mean_correlation(states, held_out.state),
        singles=_of_effects(_effects(model, singles, seed), screen),
        unseen_combinations=_of_effects(_effects(model, unseen, seed), screen),
        observed_singles=_of_effects(observed, screen),
        sum_of_observed_singles=_of_effects(sums, screen),
    )


def _of_mask(model: Estimator, screen: SimulatedScreen, seed: int) -> dict[str, float]:
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


def _effects(model: Estimator, conditions: list[str], seed: int) -> pd.DataFrame:
    """Return effects of conditions; none, if the model has no prediction for them (SVAE+)."""
    try:
        options: dict[str, Any] = {"n_draws": 0, "seed": seed, "progress": False}
        return model.effects(conditions, scale="normalized", **options).to_df()
    except InputError:
        return pd.DataFrame()


def _of_effects(effects: pd.DataFrame, screen: SimulatedScreen) -> float:
    """Return the median correlation of effects with the truth, over their genes."""
    if effects.empty:
        return math.nan
    true = align_table(screen.truth.effects(list(effects.index)), genes=list(effects.columns))
    return float(correlation_per_condition(effects, true).dropna().median())


def matched_truth(fitted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the true binary mask in the (best matched) dimensions of the fitted one, boolean."""
    overlap = np.asarray(fitted, float).T @ np.asarray(true, float)
    ours, theirs = linear_sum_assignment(overlap, maximize=True)
    matched = np.zeros(np.shape(fitted), bool)
    matched[:, ours] = np.asarray(true, bool)[:, theirs]
    return matched


def matched_overlap(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many entries binary masks share, dimensions matched."""
    return int((matched_truth(first, second) & np.asarray(first, bool)).sum())


class MaskScore(NamedTuple):
    """Agreement of a fitted mask with the true one, dimensions matched."""

    f1: float
    precision: float
    recall: float


def mask_score(fitted: np.ndarray, true: np.ndarray) -> MaskScore:
    """Return precision and recall of the entries of a binary mask, dimensions matched.

    All entries of a fitted dimension without a partner are false positives.

    >>> score = mask_score(np.array([[0, 1], [1, 0]]), np.array([[1, 0], [0, 1]]))
    >>> float(score.f1)  # dimensions in any order
    1.0
    """
    hits, n_fitted, n_true = matched_overlap(fitted, true), np.sum(fitted), np.sum(true)
    f1 = 2 * hits / max(1, n_fitted + n_true)
    return MaskScore(f1, hits / max(1, n_fitted), hits / max(1, n_true))


def mask_matthews(fitted: np.ndarray, true: np.ndarray) -> float:
    """Return the Matthews correlation of a fitted mask with the true one, dimensions matched.

    1 for the same mask, 0 for one without entries or all ones; above 0 for a random one, because of
    the matching. Dimensions that the fitted mask does not use are not counted.
    """
    n = len(true) * max(int(np.any(fitted, 0).sum()), np.shape(true)[1])
    n_fitted, n_true = int(np.sum(fitted)), int(np.sum(true))
    scale = math.sqrt(n_fitted * (n - n_fitted) * n_true * (n - n_true))
    covariance = n * matched_overlap(fitted, true) - n_fitted * n_true
    return covariance / scale if scale else 0.0


def mean_correlation(fitted: np.ndarray, true: np.ndarray) -> float:
    """Return the mean correlation of true latent dimensions with the fitted ones they match.

    Mean over true dimensions of |Pearson r| over cells, matched for the largest sum: the MCC of
    Hyvarinen, Morioka, NeurIPS 2016, 1 where every dimension is recovered up to order, sign, scale
    and origin. A true dimension without a partner, or a constant one, counts as 0.
    """
    if len(fitted) != len(true):
        raise InputError(
            f"got fitted states of {len(fitted)} cells and true states of {len(true)}: expected "
            "the same cells, in the same order"
        )
    a, b = (np.nan_to_num(standardised(np.asarray(x, np.float64).T)) for x in (fitted, true))
    r = np.abs(a @ b.T)
    return float(r[linear_sum_assignment(r, maximize=True)].sum() / r.shape[1])


def chance_f1(fitted: np.ndarray, true: np.ndarray, *, seed: int = 0) -> float:
    """Return the mean F1 of random masks with as many entries as the fitted one."""
    rng, entries = np.random.default_rng(seed), np.ravel(fitted)
    draws = [rng.permutation(entries).reshape(np.shape(fitted)) for _ in range(_N_PERMUTATIONS)]
    return float(np.mean([mask_score(draw, true).f1 for draw in draws]))


def mask_jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return |A and B| / |A or B| of binary masks, dimensions matched; NaN where both are empty."""
    shared = matched_overlap(first, second)
    either = int(np.sum(first)) + int(np.sum(second)) - shared
    return shared / either if either else float("nan")


def shift_agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the agreement of shifts, axis by axis, and after the best rotation of the second.

    sum over matched dimensions of |a . b| / (|A| |B|); and the sum of the singular values of
    A'B / (|A| |B|), the largest trace over rotations. NaN where either has none.
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
