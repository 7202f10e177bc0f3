"""How far models that differ in their seed agree: on masks, shifts, states and effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.benchmark.metrics.effects import correlation_per_condition, pearson
from samsvae.benchmark.metrics.masks import (
    mask_jaccard,
    mean_correlation,
    shift_agreement,
    turned_onto,
)
from samsvae.data.conditions import Conditions
from samsvae.data.screen import Screen
from samsvae.errors import InputError, got
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.settings.arguments import checked
from samsvae.types import Scale

N_CHANCE = 20
"""Permutations behind the overlap that chance alone gives."""
_MOVES = 0.1
"""Standard deviation of the states in a dimension in use, as a share of the largest."""


class Comparable(Protocol):
    """What is asked of the models."""

    metadata: TrainingMetadata
    is_trained: bool

    def mask_probabilities(self) -> pd.DataFrame: ...

    def embeddings(self) -> pd.DataFrame: ...

    def latent(self, screen: Screen, *, seed: int = 0) -> dict[str, np.ndarray]: ...

    def effects(
        self,
        conditions: Conditions | None = None,
        *,
        scale: Scale | None = None,
        n_particles: int = 2500,
        n_draws: int = 100,
        seed: int = 0,
        progress: bool = True,
    ) -> AnnData: ...


@checked
def stability(
    models: Sequence[Comparable] | Mapping[str, Comparable],
    *,
    screen: Screen | None = None,
    conditions: Conditions | None = None,
    scale: Scale | None = None,
    n_particles: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Return how far models of the same screen agree, pair by pair.

    What differs between seeds is not of the data. A mask whose overlap is near that of chance says
    nothing about mechanisms, however well its model predicts.

    Parameters
    ----------
    models
        At least two trained models, say of different seeds, or a mapping from their names to them.
        They may be of different kinds and sizes.
    screen
        Cells whose states are compared, say `screen.test`; without, they are not.
    conditions
        Whose effects are compared; by default those that both models have seen in training.
    scale
        Of the effects, as in `effects`; by default the models' own.
    n_particles
        Draws behind each effect. Too few of them look like disagreement.
    seed
        Of effects and permutations: same seed, same numbers.
    progress
        Show progress bars.

    Returns
    -------
    One row per pair of models:

    - first, second: their names, or positions;
    - n_first, n_second: entries of their masks (posterior probability > 1/2) over the perturbations
      that both have seen;
    - mask_jaccard: |A and B| / |A or B| of these entries, latent dimensions matched one to one to
      share most (the Hungarian method). NaN where both are empty;
    - mask_jaccard_chance: the same where the perturbations of the second are permuted, mean of 20.
      Both are 1 for CPA-VAE;
    - shift_agreement: sum |a . b| / (|A| |B|) over shifts A and B (probability * embedding), latent
      dimensions a and b matched one to one to agree most, signs free: 1 where the models displace
      perturbations alike, axis by axis;
    - shift_agreement_rotated: the same after the best rotation of the second: where it is much
      larger, the models agree on shifts but not on axes, which are then not identified;
    - state_agreement, with a screen: mean |Pearson r| over its cells of the latent coordinates of
      their states, dimensions matched one to one to correlate most; of the dimensions that move
      more than a tenth as much as the first (in standard deviations; what is not in use does not
      move), those of the model with fewer;
    - state_agreement_rotated: the same after the best rotation of the second (Procrustes);
    - effect_pearson: Pearson correlation of their effects, over conditions x genes;
    - effect_pearson_median: the same by condition, its median.

    For a model without a mask (conditional VAE) what is of masks is NaN.

    Raises
    ------
    InputError
        If there are fewer than two models, one is not trained, or they differ in genes or scale, or
        have no condition in common; and as `effects` does.

    Examples
    --------
    >>> import samsvae
    >>> screen = samsvae.datasets.simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20)
    >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> model = model.train(max_steps=5, progress=False)
    >>> other = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> other = other.train(max_steps=5, seed=1, progress=False)
    >>> table = stability({"seed 0": model, "seed 1": other}, n_particles=20, progress=False)
    >>> table.shape
    (1, 10)
    """
    named: dict[Any, Comparable] = dict(
        models if isinstance(models, Mapping) else enumerate(models)
    )
    _check(named)
    options: dict[str, Any] = {"n_particles": n_particles, "seed": seed, "progress": progress}
    states = {}
    if screen is not None:
        states = {name: model.latent(screen, seed=seed)["state"] for name, model in named.items()}
    views = {
        name: _View.of(model, model.effects(conditions, scale=scale, n_draws=0, **options))
        for name, model in named.items()
    }
    if len(scales := {view.scale for view in views.values()}) > 1:
        raise InputError(
            f"the models' effects are on different scales ({', '.join(sorted(scales))}): give a "
            "scale that all of them have"
        )
    return pd.DataFrame(
        {"first": first, "second": second}
        | _mask_agreement(views[first].mask, views[second].mask, seed)
        | _shift_agreement(views[first].shift, views[second].shift)
        | (_state_agreement(states[first], states[second]) if states else {})
        | _effect_agreement(first, second, views)
        for first, second in combinations(views, 2)
    )


class _View(NamedTuple):
    """What is compared of one model."""

    mask: pd.DataFrame | None
    """Perturbations seen in training x latent dimensions, binary."""
    shift: pd.DataFrame | None
    """The same: by how much, probability * embedding."""
    effects: pd.DataFrame
    """Conditions (as they are stored, without control) x genes."""
    scale: str

    @classmethod
    def of(cls, model: Comparable, effects: AnnData) -> _View:
        try:
            probability = model.mask_probabilities().dropna()
            mask, shift = probability > 0.5, probability * model.embeddings().loc[probability.index]
        except InputError:  # it displaces nothing in latent space
            mask = shift = None
        table = effects.to_df().set_index(effects.obs["condition"].astype(str))
        table = table[~table.index.duplicated()]  # "B+A" and "A+B" are one
        control = model.metadata.conditions[0]
        return cls(mask, shift, table.drop(index=control, errors="ignore"), effects.uns["scale"])


def _check(models: Mapping[Any, Comparable]) -> None:
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
        known = set(model.metadata.registry.genes)
        if known != genes:
            raise InputError(
                f"models {start!r} and {name!r} have different genes ({len(genes)} and "
                f"{len(known)}, {len(genes & known)} in common): expected models of the same screen"
            )


def _mask_agreement(
    first: pd.DataFrame | None, second: pd.DataFrame | None, seed: int
) -> dict[str, float]:
    if first is None or second is None:
        names = ("n_first", "n_second", "mask_jaccard", "mask_jaccard_chance")
        return dict.fromkeys(names, float("nan"))
    both = sorted(set(first.index) & set(second.index))
    a, b = first.loc[both].to_numpy(), second.loc[both].to_numpy()
    rng = np.random.default_rng(seed)
    chance = [mask_jaccard(a, rng.permutation(b)) for _ in range(N_CHANCE)]
    return {
        "n_first": int(a.sum()),
        "n_second": int(b.sum()),
        "mask_jaccard": mask_jaccard(a, b),
        "mask_jaccard_chance": float(np.mean(chance)),
    }


def _shift_agreement(first: pd.DataFrame | None, second: pd.DataFrame | None) -> dict[str, float]:
    names = ("shift_agreement", "shift_agreement_rotated")
    if first is None or second is None:
        return dict.fromkeys(names, float("nan"))
    both = sorted(set(first.index) & set(second.index))
    return dict(zip(names, shift_agreement(first.loc[both], second.loc[both]), strict=True))


def _state_agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    a, b = sorted((_in_use(first), _in_use(second)), key=lambda x: -x.shape[1])
    return {
        "state_agreement": mean_correlation(a, b),
        "state_agreement_rotated": mean_correlation(turned_onto(a, b), b),
    }


def _in_use(states: np.ndarray) -> np.ndarray:
    """Return the latent dimensions in which the cells' states differ at all."""
    spread = states.std(0)
    return states[:, spread > _MOVES * spread.max()]


def _effect_agreement(first: Any, second: Any, views: Mapping[Any, _View]) -> dict[str, float]:
    a, b = views[first].effects, views[second].effects
    both = sorted(set(a.index) & set(b.index))
    if not both:
        raise InputError(
            f"models {first!r} and {second!r} have no condition in common: expected models of the "
            "same screen, or conditions other than control"
        )
    a, b = a.loc[both], b.loc[both, a.columns]
    return {
        "effect_pearson": float(pearson(a.to_numpy().ravel(), b.to_numpy().ravel())),
        "effect_pearson_median": float(correlation_per_condition(a, b).median()),
    }
