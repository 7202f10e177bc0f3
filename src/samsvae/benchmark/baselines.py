"""Simple predictors of effects, which a model must beat before it is worth its training.

They have the `train()` and `effects(conditions)` of models: effects are differences from control,
learned from the training cells only. In the formulas mu_p is the mean expression of a condition's
training cells on the scale, mu_0 that of control (in the batches of those cells), delta_p = mu_p -
mu_0, and mu - mu_0 the mean of delta_p over perturbed conditions. See Ahlmann-Eltze, Huber, Anders:
Deep-learning-based gene perturbation effect prediction does not yet outperform simple linear
baselines, Nature Methods 2025.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae._deprecated import renamed_attribute
from samsvae.benchmark.means import Means, means_of
from samsvae.benchmark.regression import PrincipalRidge, WeightedEffects, fit_ridge, least_squares
from samsvae.data.conditions import Conditions, dosage_rows, parts_matrix
from samsvae.data.expression import rows_of, training_cells
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.data.source import StoredCounts
from samsvae.errors import InputError, note, unknown
from samsvae.settings.arguments import check, checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import EffectSettings
from samsvae.types import Scale


def _can_be_compared(cells: Screen) -> bool:
    """Whether a batch has both control cells and perturbed ones."""
    batch, is_control = cells.batch, cells.is_control
    return bool(np.intersect1d(batch[~is_control], batch[is_control]).size)


class Baseline(ABC):
    """A predictor of effects from the means of training cells of a screen with a split.

    It is an error if there are no training, control or perturbed cells, or no batch has both.
    """

    name: ClassVar[str]
    """By which it is chosen at the command line, and its name in tables."""
    is_trained: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = False

    def __init__(self, screen: Screen) -> None:
        check("screen", screen, Screen)
        self.screen = screen
        self._train = train = training_cells(screen)
        if not _can_be_compared(train):
            raise InputError(
                "no batch has both control cells and perturbed ones in training: leave batch_key "
                "out to compare with the controls of all batches"
            )

    def train(self, **settings: Any) -> Self:
        """Return itself: there is nothing to fit but means. Settings of models are not used."""
        return self

    @property
    def registry(self) -> NameRegistry:
        """Names of its genes and perturbations."""
        return self.screen.registry

    @property
    def fitted_on(self) -> pd.Index:
        """Names of the training cells."""
        return self._train.cells

    @property
    def training_conditions(self) -> tuple[str, ...]:
        """Conditions of the training cells, as they are stored."""
        return self._train.conditions

    remembered = renamed_attribute("remembered", "fitted_on")
    seen = renamed_attribute("seen", "training_conditions")

    def answers_for(self, condition: str) -> bool:
        """Whether the baseline has a prediction for a condition."""
        try:
            stored = self.registry.stored(condition)
            if stored != self.registry.parser.control:
                self._predict(stored, self._means_on(None))
        except InputError:
            return False
        return True

    @checked
    @takes(EffectSettings)
    def effects(self, conditions: Conditions | None = None, **settings: Any) -> AnnData:
        """Return the predicted difference of conditions from control, conditions x genes.

        Of the settings of the models' `effects` only the scale is used: "lfc" (by default, for
        counts), "log", "normalized", or "mean" (by default, for real values). `obs`
        holds each condition as it is stored, its number of training cells, and whether it fell back
        on the mean of all perturbed conditions, or on no effect for a part of it; the interval
        (layers "lower", "upper") is NaN. It is an error if the baseline has no prediction for a
        condition.
        """
        chosen = EffectSettings(**settings)
        if chosen.contamination:
            raise InputError("baselines do not take off counts of other cells: contamination is 0")
        means, parser = self._means_on(chosen.scale), self.registry.parser
        names = parser.labels(means.conditions if conditions is None else conditions)
        stored, control = list(map(self.registry.stored, names)), parser.control
        predicted = [
            0 * means.mean if name == control else self._predict(name, means) for name in stored
        ]
        fell_back = [
            effect is None or (name != control and self._misses_a_part(name, means))
            for name, effect in zip(stored, predicted, strict=True)
        ]
        nothing = np.full((len(names), len(self.screen.genes)), np.nan)
        return AnnData(
            np.array([means.mean if effect is None else effect for effect in predicted]),
            obs=pd.DataFrame(
                {
                    "condition": stored,
                    "n_train_cells": [means.n_cells(name) for name in stored],
                    "fell_back": fell_back,
                    "estimable": [name not in means.not_estimable for name in stored],
                },
                index=pd.Index(names, dtype=str),
            ),
            var=pd.DataFrame({"unexpressed": means.unexpressed}, index=list(self.screen.genes)),
            layers={"lower": nothing, "upper": nothing.copy()},
            uns={"scale": means.scale, "n_fell_back": int(sum(fell_back))},
        )

    @checked
    def cells(
        self, conditions: Iterable[str], *, n_cells: int, seed: int
    ) -> Iterator[sp.csr_matrix | None]:
        """Yield counts of training cells as the prediction for each condition, at most so many.

        None: the baseline predicts means alone.
        """
        before = counts = None
        for rows in map(self._similar, conditions):
            if rows is not None and rows is not before:
                some = rows
                if len(rows) > n_cells:
                    some = np.random.default_rng(seed).choice(rows, n_cells, replace=False)
                counts = self._train.counts[np.sort(some)]
                counts = counts.read() if isinstance(counts, StoredCounts) else counts
            before = rows
            yield None if rows is None else counts

    def iwelbo(
        self, screen: Screen, *, n_particles: int, seed: int, progress: bool
    ) -> pd.DataFrame:
        """Raise: baselines predict means, and have no likelihood."""
        raise InputError(f"{self.name} has no likelihood: it predicts means")

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        """Training cells of each condition, control first, by position."""
        return rows_of(self._train.condition, len(self._train.condition_names))

    def _similar(self, condition: str) -> np.ndarray | None:
        """Return the training cells that predict a condition, by position; None: means alone."""
        return None

    @abstractmethod
    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        """Return a condition's effect, `gene`; None: fall back on the mean of all conditions."""

    def _misses_a_part(self, condition: str, means: Means) -> bool:
        """Return whether nothing is known of a part of a combination."""
        return False

    def _means_on(self, scale: Scale | None) -> Means:
        scales = self.screen.registry.scales
        scale = scale or scales[0]
        if scale not in scales:
            raise unknown("scale", scale, scales)
        return means_of(self._train, scale)


class NoChange(Baseline):
    """Predicts no effect, 0, for every condition."""

    name = "no-change"

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        return np.zeros_like(means.mean)

    def _similar(self, condition: str) -> np.ndarray:
        return self._rows[0]


class PerturbationMean(Baseline):
    """Predicts the mean effect of perturbed conditions, mu - mu_0, for every condition."""

    name = "perturbation-mean"

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        return means.mean

    def _similar(self, condition: str) -> np.ndarray:
        return self._perturbed

    @cached_property
    def _perturbed(self) -> np.ndarray:
        return np.flatnonzero(~self._train.is_control)


class ConditionMean(Baseline):
    """Predicts a condition's effect in its n training cells: delta_p, shrunk by n / (n + 50)."""

    name = "condition-mean"

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        delta, n = means.of(condition), means.n_cells(condition)
        if delta is None:
            raise InputError(
                f"the condition {condition!r} has no training cells: ConditionMean predicts seen "
                "conditions only"
            )
        return delta * (n / (n + 50))

    def _similar(self, condition: str) -> np.ndarray:
        return self._rows[self._train.position_of_condition[self.registry.stored(condition)]]


class Additive(Baseline):
    """Predicts the sum of a combination's parts.

    The effect of a part with training cells of its own is delta_p. Those of the others fit the
    combinations that hold them by least squares, weighted by numbers of cells (the smallest, where
    several fit alike). A part that no training condition holds adds nothing; mu - mu_0 for a
    condition of such parts alone.

    >>> effects = Additive(screen).effects(["G01", "G02", "G01+G02"]).to_df()
    >>> total = effects.loc["G01"] + effects.loc["G02"]
    >>> bool((total - effects.loc["G01+G02"]).abs().max() < 1e-9)
    True
    """

    name = "additive"

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._fits: dict[Scale, dict[str, np.ndarray]] = {}

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        effects = self._effects_of_parts(means)
        known = [effects[part] for part in self.registry.singles(condition) if part in effects]
        return np.sum(known, axis=0) if known else None

    def _misses_a_part(self, condition: str, means: Means) -> bool:
        return not self._effects_of_parts(means).keys() >= set(self.registry.singles(condition))

    def _effects_of_parts(self, means: Means) -> dict[str, np.ndarray]:
        """Return the effects of the parts of training conditions."""
        if means.scale in self._fits:
            return self._fits[means.scale]
        singles = self.registry.singles
        parts = list(dict.fromkeys(chain.from_iterable(map(singles, means.conditions))))
        own = {part: effect for part in parts if (effect := means.of(part)) is not None}
        rest = [part for part in parts if part not in own]
        if rest:
            design = parts_matrix(means.conditions, [*own, *rest], self.registry.parser)
            measured = np.reshape(list(own.values()), (len(own), len(means.mean)))
            remainder = means.effects - design[:, : len(own)] @ measured
            # Conditions without these parts are rows of zeros, which change no coefficient.
            of_rest = design[:, len(own) :]
            fitted = least_squares(of_rest, means.cells_per_condition, remainder)
            own |= dict(zip(rest, fitted, strict=True))
        self._fits[means.scale] = own
        return own


class RidgeRegression(Baseline):
    """Ridge regression of effects on which perturbations a condition has, and at what dose.

    Of the delta_p of training conditions, weighted by numbers of cells, in their first principal
    components; see `samsvae.benchmark.regression`. The penalty and the number of components are
    those with the smallest error on the validation cells (weighted by numbers of cells, or by the
    precision of fold changes). The effect of a combination is the sum of those of its
    perturbations. One that no training condition has adds nothing; mu - mu_0 for a condition of
    such perturbations alone.

    Without validation cells all components are used, with the penalty of `ConditionMean`, 50 cells.
    """

    name = "ridge-regression"

    penalties = (1, 3, 10, 30, 100, 300, 1000)
    n_components = (1, 2, 4, 8, 16, 32)
    default_penalty = 50

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._fits: dict[Scale, tuple[PrincipalRidge, set[str]]] = {}

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        fit, received = self._fit(means)
        if received.isdisjoint(self.registry.read(condition)):
            return None
        effect: np.ndarray = fit.predict(self._design([condition]))[0]
        return effect

    def _misses_a_part(self, condition: str, means: Means) -> bool:
        return not self._fit(means)[1].issuperset(self.registry.read(condition))

    def _fit(self, means: Means) -> tuple[PrincipalRidge, set[str]]:
        """Return the fit, and the perturbations of the conditions that it is of."""
        if means.scale not in self._fits:
            cells = self.screen.valid
            valid = means_of(cells, means.scale) if _can_be_compared(cells) else None
            fit = fit_ridge(
                self._effects_of(means),
                None if valid is None else self._effects_of(valid),
                penalties=self.penalties,
                n_components=self.n_components,
                default_penalty=self.default_penalty,
            )
            received = set(chain.from_iterable(map(self.registry.read, means.conditions)))
            self._fits[means.scale] = fit, received
        return self._fits[means.scale]

    def _effects_of(self, means: Means) -> WeightedEffects:
        design = self._design(means.conditions)
        return WeightedEffects(design, means.cells_per_condition, means.effects, means.weight)

    def _design(self, conditions: Sequence[str]) -> sp.csr_matrix:
        return dosage_rows(list(map(self.registry.read, conditions)), self.registry.column)


class MatchingMean(Baseline):
    """Predicts the mean of a combination's parts that are in training; mu - mu_0 if none is."""

    name = "matching-mean"

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        deltas = [means.of(part) for part in self.registry.singles(condition)]
        seen = [delta for delta in deltas if delta is not None]
        return np.mean(seen, axis=0) if seen else None


class LinearPCA(Baseline):
    """A linear map from principal component scores of the perturbed gene to its effect.

    Y (genes x singles) are the delta_p of single conditions in training, b their mean, G (genes x
    10) the scores of the genes on the first principal components of Y - b, P the rows of G of the
    perturbed genes. W = (G'G + 0.1 I)^-1 G'(Y - b) P (P'P + 0.1 I)^-1, and the effect is G W p + b
    with p the sum of the parts' rows. A target that is not among the genes falls back on mu - mu_0.
    """

    name = "linear-pca"

    n_components = 10
    penalty = 0.1

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._gene = screen.registry.position_of_target
        if not self._gene.keys() & set(screen.perturbations):
            note(
                "no perturbation is named after a gene: linear-pca predicts the mean of all "
                "perturbations for each (gene_key gives symbols, where genes go by identifiers)"
            )
        self._fits: dict[Scale, tuple[np.ndarray, np.ndarray, np.ndarray] | None] = {}

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        received = self.registry.read(condition)
        if means.scale not in self._fits:
            self._fits[means.scale] = self._fit(means)
        fitted = self._fits[means.scale]
        if fitted is None or not all(name in self._gene for name in received):
            return None
        scores, weights, center = fitted
        p = scores[[self._gene[name] for name in received]].sum(0)
        return scores @ (weights @ p) + center

    def _fit(self, means: Means) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return G, W and b; None without a single condition whose target is among the genes."""
        singles = [name for name in means.conditions if len(self.registry.singles(name)) == 1]
        targets = [next(iter(self.registry.read(name))) for name in singles]
        usable = [i for i, target in enumerate(targets) if target in self._gene]
        if not usable:
            return None
        y = np.array([means.of(name) for name in singles]).T
        center = y.mean(1)
        y = y - center[:, None]
        left, size, _ = np.linalg.svd(y, full_matrices=False)
        k = min(self.n_components, len(size))
        scores = left[:, :k] * size[:k]
        p = scores[[self._gene[targets[i]] for i in usable]]
        ridge = self.penalty * np.eye(k)
        inner = np.linalg.solve(scores.T @ scores + ridge, scores.T @ y[:, usable] @ p)
        weights = np.linalg.solve((p.T @ p + ridge).T, inner.T).T
        return scores, weights, center


BASELINES: list[type[Baseline]] = [NoChange, PerturbationMean, ConditionMean]
BASELINES += [RidgeRegression, Additive, MatchingMean, LinearPCA]
