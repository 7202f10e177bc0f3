"""A predictor of effects made of a model and of what cells show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.analysis.shrinkage import EffectPrior, Posterior, Predicted, Shown, fitted_prior
from samsvae.benchmark.metrics.moments import within_batches
from samsvae.data.conditions import Conditions
from samsvae.data.expression import Expression, expression
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.estimators import Estimator
from samsvae.settings.arguments import check, checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import EffectSettings
from samsvae.types import SCALE_SIZE, Scale

_HALF_WIDTH = 1.6448536269514722
"""Of a central 90 % interval, in standard deviations of a normal."""
_DRAWS = 40
"""Of mask and embedding: each costs an average over basal states, and what is sought of them is but
a variance."""


class Answer(NamedTuple):
    """What is known of conditions."""

    posterior: Posterior
    shown: Shown
    predicted: Predicted
    prior: EffectPrior
    estimable: np.ndarray
    """`condition`."""


class _Learned(NamedTuple):
    """What is learned of conditions, and what they are looked at with."""

    place: dict[str, int]
    """By condition, its row."""
    predicted: Predicted
    prior: EffectPrior
    estimable: np.ndarray
    """`condition`."""
    values: Expression
    """Of all cells."""
    scale: Scale

    def answer(self, rows: np.ndarray, shown: Shown) -> Answer:
        """Return what is known, row by row, of the conditions of some rows."""
        prior, predicted = self.prior.of(rows), self.predicted.of(rows)
        posterior = prior.posterior(shown, predicted)
        return Answer(posterior, shown, predicted, self.prior, self.estimable[rows])


class EffectPosterior:
    """Predicts effects from a model and from what training and validation cells show.

    A predictor as models and baselines are: `samsvae.evaluate` takes it. See `discoveries`.

    Parameters
    ----------
    model
        Trained on the screen's training cells.
    screen
        With training and validation cells.
    cells
        "all", or "responders": each cell counts as much as is probable that what it received acts
        in it (all of it, of a combination), so that the effect is not diluted by cells that do not
        respond; for models with `response="learned"`. A condition has then as many cells as are
        expected to respond.
    progress
        Show a progress bar over these cells.

    Raises
    ------
    InputError
        If the model is not trained, or takes all cells to respond while these are asked for, or
        the screen has too few validation cells.
    """

    is_trained: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = False

    def __init__(
        self,
        model: Estimator,
        screen: Screen,
        *,
        cells: Literal["all", "responders"] = "all",
        progress: bool = False,
    ) -> None:
        check("model", model, Estimator)
        check("screen", screen, Screen)
        if cells not in ("all", "responders"):
            raise unknown("cells", cells, ["all", "responders"])
        if not model.is_trained:
            raise InputError("the model is not trained: call train first")
        self.model, self.screen = model, model.matched(screen)
        self.name = f"{model.name}, with data"
        if not self.learns_from(self.screen):
            raise InputError(
                "there are too few validation cells, of control and of perturbations, to learn "
                "from how far the model is to be trusted (expected two training and two validation "
                "cells of a condition, beside control cells of their batches): split the screen "
                "anew, by samsvae.splits.stratified, and train on that"
            )
        self._of_split = {
            name: np.asarray(self.screen.split == name) for name in ("train", "valid")
        }
        self._used = self._of_split["train"] | self._of_split["valid"]
        self._weight = _responding(model, self.screen, progress) if cells != "all" else None

    @staticmethod
    def learns_from(screen: Screen) -> bool:
        """Whether a screen has what is needed.

        That is a condition with two training and two validation cells, each beside control cells
        of their batches: of one cell the standard error is not known.
        """
        if screen.split is None:
            return False
        enough = np.ones(len(screen.condition_names), bool)
        for name in ("train", "valid"):
            cells = np.asarray(screen.split == name)
            beside = np.isin(screen.batch, screen.batch[cells & screen.is_control])
            compared = cells & beside & ~screen.is_control
            enough &= np.bincount(screen.condition[compared], minlength=len(enough)) > 1
        return bool(enough.any())

    @property
    def registry(self) -> NameRegistry:
        """The names that it knows."""
        return self.model.registry

    @property
    def fitted_on(self) -> pd.Index:
        """Names of the training and validation cells."""
        return self.screen.cells[self._used]

    @property
    def training_conditions(self) -> tuple[str, ...]:
        """Conditions of the training cells, as they are stored."""
        return self.model.training_conditions

    def answers_for(self, condition: str) -> bool:
        """Whether there is an answer for a condition: whether the model has one."""
        return self.model.answers_for(condition)

    @checked
    @takes(EffectSettings)
    def effects(self, conditions: Conditions | None = None, **settings: Any) -> AnnData:
        """Return effects, conditions x genes, as `samsvae.SAMSVAE.effects` does.

        Always at the cells' own library sizes.

        Parameters
        ----------
        conditions
            As the models' `effects` take them; by default all of the training cells but control.
        **settings
            Of the models' `effects`.
        """
        given = EffectSettings(**settings)
        asked = self.model.metadata.asked(conditions)
        answer = self.answer(asked, given, self._used)
        unexpressed = self.model.metadata.unexpressed
        known = answer.estimable[:, None] & ~unexpressed
        found = answer.posterior
        ends = {
            "lower": found.lower,
            "upper": found.upper,
            "lower_50": found.lower_50,
            "upper_50": found.upper_50,
        }
        return AnnData(
            np.where(unexpressed, 0, found.mean),
            obs=pd.DataFrame(
                {
                    "condition": [self.model.metadata.stored(name) for name in asked],
                    "n_cells": answer.shown.n_cells,
                    "estimable": answer.estimable,
                },
                index=pd.Index(asked, dtype=str),
            ),
            var=pd.DataFrame({"unexpressed": unexpressed}, index=list(self.registry.genes)),
            layers={
                "lfsr": np.where(known, found.lfsr, 1),
                **{name: np.where(known, end, np.nan) for name, end in ends.items()},
            },
            uns={"scale": given.scale or self.model.module.likelihood.scales[0]},
        )

    def cells(self, conditions: Iterable[str], *, n_cells: int, seed: int) -> Iterator[None]:
        """Yield None: it predicts means alone."""
        return (None for _ in conditions)

    def iwelbo(
        self, screen: Screen, *, n_particles: int, seed: int, progress: bool
    ) -> pd.DataFrame:
        """Raise: it predicts effects, not cells."""
        raise InputError(f"{self.name!r} has no likelihood: it predicts effects")

    def answer(self, asked: Sequence[str], given: EffectSettings, observed: np.ndarray) -> Answer:
        """Return what is known of conditions.

        Parameters
        ----------
        asked
            The conditions.
        given
            How the model is asked.
        observed
            `cell`: whose counts are observations.
        """
        stored = [self.model.metadata.stored(name) for name in asked]
        learned = self._learned(stored, given)
        place = learned.place
        rows = np.array([place[name] for name in stored], int)
        shown = self._shown(
            learned.values, self._rows_of(place), observed, learned.scale, n=len(place)
        )
        return learned.answer(rows, shown.of(rows))

    def answer_by_sgrna(
        self, asked: Sequence[str], given: EffectSettings
    ) -> tuple[Answer, list[tuple[str, str]]]:
        """Return what is known of conditions by the cells of each of their sgRNAs alone.

        What is learned of a condition (how large effects are, how far the model is right) holds for
        each of its sgRNAs. Returned beside the answer: condition (as asked) and sgRNA of its rows.

        Parameters
        ----------
        asked, given
            As in `answer`; all cells are observations.
        """
        screen = self.screen
        if screen.sgrna is None:
            raise InputError(
                "the sgRNAs of the cells are not known: read the screen with sgrna_key"
            )
        stored = [self.model.metadata.stored(name) for name in asked]
        learned = self._learned(stored, given)
        place = {name: i for i, name in enumerate(stored)}
        condition = self._rows_of(place)
        code = np.where(condition >= 0, screen.sgrna.codes, -1)
        known = code >= 0
        pairs, inverse = np.unique(
            np.stack([condition, code])[:, known], axis=1, return_inverse=True
        )
        if not pairs.shape[1]:
            raise InputError("none of the conditions has cells with a known sgRNA")
        group = np.full(len(screen), -1)
        group[known] = inverse.ravel()
        every = np.ones(len(screen), bool)
        shown = self._shown(learned.values, group, every, learned.scale, n=pairs.shape[1])
        rows = np.array([learned.place[stored[i]] for i in pairs[0]], int)
        names = [(asked[i], str(screen.sgrna.categories[j])) for i, j in pairs.T]
        return learned.answer(rows, shown), names

    def _rows_of(self, place: Mapping[str, int]) -> np.ndarray:
        """Return the row of each cell's condition, `cell`; -1 where it has none."""
        position = np.array([place.get(name, -1) for name in self.screen.condition_names])
        found: np.ndarray = position[self.screen.condition]
        return found

    def _learned(self, stored: Sequence[str], given: EffectSettings) -> _Learned:
        """Return what training and validation cells say of effects, and what the model does."""
        scale = given.scale or self.model.module.likelihood.scales[0]
        every = list(dict.fromkeys((*self.training_conditions[1:], *stored)))
        effects = self.model.effects(
            every,
            scale=scale,
            library_size="observed",
            n_particles=given.n_particles,
            n_draws=_DRAWS,
            basal=given.basal,
            batch="observed" if self.registry.batches else None,
            seed=given.seed,
            progress=given.progress,
        )
        half = (effects.layers["upper"] - effects.layers["lower"]) / 2
        variance = np.nan_to_num(half / _HALF_WIDTH) ** 2 + effects.layers["mc_se"] ** 2
        predicted = Predicted(np.asarray(effects.X, float), variance)
        values = expression(self.screen, scale, weight=self._weight)
        place = {name: i for i, name in enumerate(every)}
        row = self._rows_of(place)
        row[self.screen.is_control] = -1  # where control is asked for, nothing is learned of it
        train, valid = (
            self._shown(values, row, cells, scale, n=len(every))
            for cells in self._of_split.values()
        )
        prior = fitted_prior(train, valid, predicted, seed=given.seed)
        estimable = np.asarray(effects.obs["estimable"], bool)
        return _Learned(place, predicted, prior, estimable, values, scale)

    def _shown(
        self, values: Expression, row: np.ndarray, cells: np.ndarray, scale: Scale, *, n: int
    ) -> Shown:
        """Return what some cells show, each of the row it belongs to, of n.

        The variance of a gene is that of its cells and of one more, with a single count: of a gene
        that no cell has, it is not known to be 0.
        """
        screen = self.screen
        group = np.where(cells, row, -1)
        control = cells & screen.is_control
        sums, compared, _ = within_batches(values, group, control, screen.batch, n)
        free = sums.n_cells + compared.n_cells - 2 * compared.n_batches
        one = _single_count(self.screen.train, scale)
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = (sums.squares + compared.squares + one**2) / (free + 1)[:, None]
            variance = squares * (1 / sums.n_cells + compared.inverse)[:, None]
        usable = group >= 0
        n_cells, n_trained_on = (
            np.bincount(group[of], minlength=n) for of in (usable, usable & self._of_split["train"])
        )
        trained_on = n_trained_on / np.maximum(n_cells, 1)
        return Shown(sums.mean - compared.mean, variance, sums.n_cells, trained_on)


def _responding(model: Estimator, screen: Screen, progress: bool) -> np.ndarray:
    """Return the probability that all that a cell received acts in it, `cell`; 1 of control."""
    found = model.responders(screen, progress=progress).cells
    n_received = np.diff(screen.dosage.indptr)
    weight = np.ones(len(screen))
    np.multiply.at(weight, np.repeat(np.arange(len(screen)), n_received), found["probability"])
    return weight


def _single_count(screen: Screen, scale: Scale) -> float:
    """Return the expression of a gene of which a typical cell has one count."""
    if scale == "mean":
        return 0.0 if not screen.registry.counts else 1.0
    share = SCALE_SIZE / max(1.0, float(np.median(screen.counted)))
    return float(np.log2(1 + share)) if scale == "log" else share
