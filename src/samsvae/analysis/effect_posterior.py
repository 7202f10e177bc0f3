"""Effects given both a model and the training and validation cells, as a predictor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae._deprecated import renamed_attribute
from samsvae.analysis.additivity import Additivity, SumsOfParts
from samsvae.analysis.mixture import (
    EffectPrior,
    ObservedEffects,
    Posterior,
    PredictedEffects,
    some_rows,
)
from samsvae.analysis.shrinkage import about_zero, fitted_prior
from samsvae.data.conditions import Conditions
from samsvae.data.contamination import Contamination
from samsvae.data.differences import Differences, fold_differences, mean_differences
from samsvae.data.expression import Expression, expression
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator
from samsvae.settings.arguments import check, checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import ContrastSettings, EffectSettings
from samsvae.types import SCALE_SIZE, Scale

CellChoice: TypeAlias = Literal["all", "responders"]
_Z_90 = 1.6448536269514722
"""Half the width of a central 90 % interval, in standard deviations of a normal."""
_RARE = 1.0
"""Variance of a log2 fold change from which on a gene has too few counts to tell."""
_DRAWS = 40
"""Of mask and embedding: few, since each is costly and only a variance is estimated from them."""


class EffectAnswer(NamedTuple):
    """Effects of conditions, and what they were estimated from."""

    posterior: Posterior
    observed: ObservedEffects
    predicted: PredictedEffects
    prior: EffectPrior
    estimable: np.ndarray
    """`condition`."""
    additivity: Additivity | None = None
    """How far combinations without cells may be from the sum of their parts; None without any."""
    of_features: np.ndarray | None = None
    """`condition`: whether features alone tell of it; None: of none."""


class EffectInputs(NamedTuple):
    """What effects of the training conditions, and of others, are estimated from."""

    place: dict[str, int]
    """Row of each condition."""
    parts: dict[int, np.ndarray]
    """Rows of the parts of each combination, by its row, if all of them have one."""
    row: np.ndarray
    """`cell`: the row of its condition; -1 for control, and where it has none."""
    predicted: PredictedEffects
    estimable: np.ndarray
    """`condition`."""
    values: Expression | None
    """Of all cells; None for fold changes, which are of sums."""
    contamination: Contamination | None
    """Counts of other cells, which are taken off fold changes."""
    settings: EffectSettings


class EffectPosterior:
    """Predicts effects from a model and from the training and validation cells, see `discoveries`.

    `samsvae.evaluate` takes it as it takes models and baselines.

    Parameters
    ----------
    model, screen
        A model trained on the screen's training cells; the screen, with training and validation
        cells, matched by gene and perturbation name.
    cells
        "all", or "responders", for models with `learn_responders=True`: each cell is weighted by
        the probability that all that it received acts in it, so that cells that do not respond do
        not dilute the effect, and the number of cells is the expected number of responders.
    context
        Effects in this context, from its cells alone; None: in all together.
    progress
        Show a progress bar over these cells.

    Raises
    ------
    InputError
        If the model is not trained, or has no responders although `cells` is "responders", or the
        screen has too few validation cells.
    """

    is_trained: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = False

    def __init__(
        self,
        model: Estimator,
        screen: Screen,
        *,
        cells: CellChoice = "all",
        context: str | None = None,
        progress: bool = False,
    ) -> None:
        check("model", model, Estimator)
        check("screen", screen, Screen)
        check("cells", cells, CellChoice)
        if not model.is_trained:
            raise InputError("the model is not trained: call train first")
        self.model, self.screen = model, model.matched(screen)
        self.name, self.context = f"{model.name}, with data", context
        if context is not None:
            model.metadata.is_of_context(context)  # raises unless there is one
            own = self.screen.registry
            is_own = (own.context_of_batch == own.contexts.index(context))[self.screen.batch]
            self.screen = self.screen[np.flatnonzero(is_own)]
        if not self.learns_from(self.screen):
            raise InputError(
                "there are too few validation cells, of control and of perturbations, to weight "
                "the model's predictions by (expected two training and two validation cells of a "
                "condition, in batches with control cells): split the screen again, by "
                "samsvae.splits.stratified, and train on that"
            )
        self.of_split = {name: np.asarray(self.screen.split == name) for name in ("train", "valid")}
        self._used = self.of_split["train"] | self.of_split["valid"]
        self._weight: np.ndarray | None = None
        if cells == "responders":  # the probability that all that a cell received acts in it
            probability = model.responders(self.screen, progress=progress).cells["probability"]
            cell = np.repeat(np.arange(len(self.screen)), np.diff(self.screen.dosage.indptr))
            self._weight = np.ones(len(self.screen))
            np.multiply.at(self._weight, cell, probability)

    @classmethod
    def of(cls, model: Estimator, screen: Screen, settings: ContrastSettings) -> Self:
        """Return the predictor that settings ask for."""
        return cls(
            model,
            screen,
            cells=settings.cells,
            context=settings.context,
            progress=settings.progress,
        )

    @staticmethod
    def learns_from(screen: Screen) -> bool:
        """Whether a condition has two training and two validation cells, in batches with control.

        The standard error of one cell cannot be estimated.
        """
        if screen.split is None:
            return False
        is_enough = np.ones(len(screen.condition_names), bool)
        for name in ("train", "valid"):
            cells = np.asarray(screen.split == name)
            has_control = np.isin(screen.batch, screen.batch[cells & screen.is_control])
            compared = cells & has_control & ~screen.is_control
            is_enough &= np.bincount(screen.condition[compared], minlength=len(is_enough)) > 1
        return bool(is_enough.any())

    @property
    def registry(self) -> NameRegistry:
        """Names of the model's genes and perturbations."""
        return self.model.registry

    @property
    def fitted_on(self) -> pd.Index:
        """Names of the training and validation cells."""
        return self.screen.cells[self._used]

    @property
    def training_conditions(self) -> tuple[str, ...]:
        """Conditions of the training cells, as they are stored."""
        return self.model.training_conditions

    remembered = renamed_attribute("remembered", "fitted_on")
    seen = renamed_attribute("seen", "training_conditions")

    def answers_for(self, condition: str) -> bool:
        """Whether the model has a prediction for a condition."""
        return self.model.answers_for(condition)

    @checked
    @takes(EffectSettings)
    def effects(self, conditions: Conditions | None = None, **settings: Any) -> AnnData:
        """Return effects, conditions x genes, as `samsvae.SAMSVAE.effects` does, with its settings.

        They are at the cells' own library sizes.
        """
        chosen, metadata = EffectSettings(**settings), self.model.metadata
        names = metadata.labels(conditions)
        answer = self.answer(names, chosen, self._used)
        posterior, unexpressed = answer.posterior, metadata.unexpressed
        has_answer = answer.estimable[:, None] & ~unexpressed
        ends = ("lower", "upper", "lower_50", "upper_50")
        layers = posterior._asdict()
        return AnnData(
            np.where(unexpressed, 0, posterior.mean),
            obs=pd.DataFrame(
                {
                    "condition": [metadata.stored(name) for name in names],
                    "n_cells": answer.observed.n_cells,
                    "estimable": answer.estimable,
                },
                index=pd.Index(names, dtype=str),
            ),
            var=pd.DataFrame({"unexpressed": unexpressed}, index=list(self.registry.genes)),
            layers={
                "lfsr": np.where(has_answer, posterior.lfsr, 1),
                **{name: np.where(has_answer, layers[name], np.nan) for name in ends},
            },
            uns={"scale": self._complete(chosen).scale, "relative_to": chosen.relative_to},
        )

    def cells(self, conditions: Iterable[str], *, n_cells: int, seed: int) -> Iterator[None]:
        """Yield None: it predicts means alone."""
        return (None for _ in conditions)

    def iwelbo(
        self, screen: Screen, *, n_particles: int, seed: int, progress: bool
    ) -> pd.DataFrame:
        """Raise: it predicts effects, not cells."""
        raise InputError(f"{self.name!r} has no likelihood: it predicts effects")

    def answer(
        self, conditions: Sequence[str], settings: EffectSettings, cells: np.ndarray
    ) -> EffectAnswer:
        """Return the effects of conditions, given some cells (a boolean per cell)."""
        stored = [self.model.metadata.stored(name) for name in conditions]
        inputs = self.inputs(stored, settings)
        rows = np.array([inputs.place[name] for name in stored], int)
        row = self.row_of_cells(inputs.place)  # control's own, if it is among the conditions
        observed = self._observed(inputs, row, cells, n=len(inputs.place))
        sums = self._sums(inputs, observed)
        additivity = sums.additivity if np.isin(rows, sums.combinations).any() else None
        return EffectAnswer(
            sums.posterior(rows.tolist()),
            some_rows(observed, rows),
            some_rows(inputs.predicted, rows),
            sums.prior,
            inputs.estimable[rows],
            additivity,
            np.array([self.model.metadata.has_features_only(name) for name in stored]),
        )

    def sums(self, inputs: EffectInputs) -> SumsOfParts:
        """Return what gives effects of combinations, given all cells of the screen."""
        every = np.ones(len(self.screen), bool)
        return self._sums(inputs, self._observed(inputs, inputs.row, every, n=len(inputs.place)))

    def _sums(self, inputs: EffectInputs, observed: ObservedEffects) -> SumsOfParts:
        """Return what gives effects of conditions and combinations, given the cells of each."""
        metadata, of_features = self.model.metadata, {}
        if metadata.unmeasured is not None:
            of_features = {
                row: metadata.unmeasured.sign_ratio
                for name, row in inputs.place.items()
                if metadata.unmeasured_parts(name) and row not in inputs.parts
            }
        prior = self._prior(inputs)
        return SumsOfParts(prior, observed, inputs.predicted, inputs.parts, of_features)

    def answer_by_sgrna(
        self, conditions: Sequence[str], settings: EffectSettings
    ) -> tuple[EffectAnswer, list[tuple[str, str]]]:
        """Return effects given the cells of each sgRNA, with the condition's prior; and names."""
        screen = self.screen
        if screen.sgrna is None:
            raise InputError(
                "the sgRNAs of the cells are not known: read the screen with sgrna_key"
            )
        stored = [self.model.metadata.stored(name) for name in conditions]
        inputs = self.inputs(stored, settings)
        condition = self.row_of_cells({name: i for i, name in enumerate(stored)})
        code = np.where(condition >= 0, screen.sgrna.codes, -1)
        has_sgrna = code >= 0
        pairs, inverse = np.unique(
            np.stack([condition, code])[:, has_sgrna], axis=1, return_inverse=True
        )
        if not pairs.shape[1]:
            raise InputError("none of the conditions has cells with a known sgRNA")
        group = np.full(len(screen), -1)
        group[has_sgrna] = inverse.ravel()
        cells = np.ones(len(screen), bool)
        observed = self._observed(inputs, group, cells, n=pairs.shape[1])
        rows = np.array([inputs.place[stored[i]] for i in pairs[0]], int)
        names = [(conditions[i], str(screen.sgrna.categories[j])) for i, j in pairs.T]
        prior, predicted = self._prior(inputs), some_rows(inputs.predicted, rows)
        posterior = prior.of(rows).posterior(observed, predicted)
        return EffectAnswer(posterior, observed, predicted, prior, inputs.estimable[rows]), names

    def _complete(self, settings: EffectSettings) -> EffectSettings:
        """Return settings with a scale."""
        return replace(settings, scale=settings.scale or self.model.default_scale)

    def row_of_cells(self, place: Mapping[str, int]) -> np.ndarray:
        """Return the row of each cell's condition, `cell`; -1 where it has none."""
        position = np.array([place.get(name, -1) for name in self.screen.condition_names])
        return position[self.screen.condition]

    def inputs(self, stored: Sequence[str], settings: EffectSettings) -> EffectInputs:
        """Return what effects of training conditions and others (as stored) are estimated from."""
        settings = self._complete(settings)
        scale: Scale = settings.scale or "log"
        # With all that was measured: an answer does not depend on what else is asked for.
        parts = [part for name in stored for part in self.registry.singles(name)]
        others = filter(self.model.answers_for, (*self.screen.conditions, *parts))
        known = (*self.training_conditions[1:], *stored, *others)
        control = self.registry.parser.control
        conditions = [n for n in dict.fromkeys(known) if n != control or n in stored]
        effects = self.model.effects(
            conditions,
            scale=scale,
            relative_to=settings.relative_to,
            library_size="observed",
            n_particles=settings.n_particles,
            n_draws=_DRAWS,
            basal=settings.basal,
            batch="observed" if self.registry.batches else None,
            context=self.context,
            contamination=settings.contamination,
            seed=settings.seed,
            progress=settings.progress,
        )
        half = (effects.layers["upper"] - effects.layers["lower"]) / 2
        variance = np.nan_to_num(half / _Z_90) ** 2 + effects.layers["mc_se"] ** 2
        predicted = PredictedEffects(np.asarray(effects.X, float), variance)
        contamination = Contamination.of(self.screen, settings.contamination)
        values = None
        if scale != "lfc":
            values = expression(self.screen, scale, weight=self._weight)
        place = {name: i for i, name in enumerate(conditions)}
        singles = {place[name]: self.registry.singles(name) for name in conditions}
        rows_of_parts = {
            row: np.array([place[part] for part in parts])
            for row, parts in singles.items()
            if len(parts) > 1 and place.keys() >= set(parts)
        }
        row = self.row_of_cells(place)
        row[self.screen.is_control] = -1  # control may be among the conditions, but has no effect
        estimable = np.asarray(effects.obs["estimable"], bool)
        return EffectInputs(
            place, rows_of_parts, row, predicted, estimable, values, contamination, settings
        )

    def _prior(self, inputs: EffectInputs) -> EffectPrior:
        """Estimate the prior of training conditions and others from the split's cells."""
        train, valid = (
            self._observed(inputs, inputs.row, cells, n=len(inputs.place)).of_these_replicates
            for cells in self.of_split.values()
        )
        # Validation cells are of the same replicates as training cells, so they show how well the
        # model predicts these, not others.
        prior = fitted_prior(train, valid, inputs.predicted, seed=inputs.settings.seed)
        if self.screen.replicate is not None:
            both = self._observed(inputs, inputs.row, self._used, n=len(inputs.place))
            prior = replace(prior, zero_centred=about_zero(both, seed=inputs.settings.seed))
        return prior

    def _observed(
        self, inputs: EffectInputs, row: np.ndarray, cells: np.ndarray, *, n: int
    ) -> ObservedEffects:
        """Return the differences from control in some cells, by the row (of n) of each cell."""
        of = self.differences(inputs, row, cells, n=n)
        trained_on = self.trained_on(row, cells, n=n)
        of_cells = of.variance - (0 if of.between is None else of.between)
        is_rare = None if inputs.values is not None else of_cells > _RARE
        return ObservedEffects(
            of.difference, of.variance, of.n_cells, trained_on, of.composition, of.between, is_rare
        )

    def sums_observed(
        self, inputs: EffectInputs, cells: np.ndarray, weights: sp.csr_matrix
    ) -> ObservedEffects:
        """Return weighted sums of effects (`sum condition`) that some cells show.

        Each counts as many cells as the smallest of its conditions; control's errors cancel.
        """
        n = len(inputs.place)
        of = self.differences(inputs, inputs.row, cells, n=n)
        difference, variance = of.combined(weights)
        trained_on = self.trained_on(inputs.row, cells, n=n)
        rows = np.split(weights.indices, weights.indptr[1:-1])
        n_cells = np.array([of.n_cells[some].min() for some in rows])
        shares = np.array([trained_on[some].mean() for some in rows])
        return ObservedEffects(difference, variance, n_cells, shares, np.full(len(rows), np.nan))

    def trained_on(self, row: np.ndarray, cells: np.ndarray, *, n: int) -> np.ndarray:
        """Return the share of each row's cells on which the model was trained."""
        in_row = cells & (row >= 0)
        n_cells, n_trained_on = (
            np.bincount(row[of & in_row], minlength=n) for of in (in_row, self.of_split["train"])
        )
        share: np.ndarray = n_trained_on / np.maximum(n_cells, 1)
        return share

    def differences(
        self, inputs: EffectInputs, row: np.ndarray, cells: np.ndarray, *, n: int
    ) -> Differences:
        """Return the differences from control in some cells, with the parts of their errors.

        Variances of differences of means include one more cell with a single count: zeros do not
        show that there is none.
        """
        group, control = np.where(cells, row, -1), cells & self.screen.is_control
        if inputs.values is None:
            relative_to = inputs.settings.relative_to
            return fold_differences(
                self.screen,
                group,
                control,
                n,
                relative_to,
                weight=self._weight,
                contamination=inputs.contamination,
            )
        one = _single_count(self.screen.train, inputs.settings.scale)
        return mean_differences(self.screen, inputs.values, group, control, n, one)


def _single_count(screen: Screen, scale: Scale | None) -> float:
    """Return the expression of a gene with one count in a typical cell."""
    if scale == "mean":
        return 0.0 if not screen.registry.counts else 1.0
    share = SCALE_SIZE / max(1.0, float(np.median(screen.counted)))
    return float(np.log2(1 + share)) if scale == "log" else share
