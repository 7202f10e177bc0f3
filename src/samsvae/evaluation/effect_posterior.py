"""A predictor of effects made of a model and of what cells show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data.expression import expression
from samsvae.data.notation import Conditions
from samsvae.data.screen import Screen
from samsvae.data.vocabulary import Vocabulary
from samsvae.errors import InputError
from samsvae.estimators import Estimator
from samsvae.evaluation.shrinkage import EffectPrior, Posterior, Predicted, Shown, fitted_prior
from samsvae.metrics.moments import Values, within_batches
from samsvae.settings.arguments import check, checked
from samsvae.settings.effects import EffectSettings
from samsvae.settings.takes import takes
from samsvae.types import SCALE_SIZE, Scale

_HALF_WIDTH = 1.6448536269514722
"""Of a central 90 % interval, in standard deviations of a normal."""
_DRAWS = 100


class Answer(NamedTuple):
    """What is known of conditions."""

    posterior: Posterior
    shown: Shown
    predicted: Predicted
    prior: EffectPrior
    identified: np.ndarray
    """`condition`."""


class EffectPosterior:
    """Predicts effects from a model and from what training and validation cells show.

    A predictor as models and baselines are: `samsvae.evaluate` takes it. See `discoveries`.

    Parameters
    ----------
    model
        Trained on the screen's training cells.
    screen
        With training and validation cells.

    Raises
    ------
    InputError
        If the model is not trained, or the screen has no validation cells.
    """

    is_trained: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = False

    def __init__(self, model: Estimator, screen: Screen) -> None:
        check("model", model, Estimator)
        check("screen", screen, Screen)
        if not model.is_trained:
            raise InputError("the model is not trained: call train first")
        self.model, self.screen = model, model.matched(screen)
        self.name = f"{model.name}, with data"
        if not self.learns_from(self.screen):
            raise InputError(
                "there are no validation cells, of control and of perturbations, to learn from how "
                "far the model is to be trusted: split the screen anew, such as by "
                "samsvae.splits.stratified, and train on that"
            )
        self._of_split = {
            name: np.asarray(self.screen.split == name) for name in ("train", "valid")
        }
        self._used = self._of_split["train"] | self._of_split["valid"]

    @staticmethod
    def learns_from(screen: Screen) -> bool:
        """Whether a screen has what is needed: validation cells, of control and perturbed ones."""
        if screen.split is None:
            return False
        of_control = screen.is_control[screen.split == "valid"]
        return bool(of_control.any() and not of_control.all())

    @property
    def vocabulary(self) -> Vocabulary:
        """The names that it knows."""
        return self.model.vocabulary

    @property
    def remembered(self) -> pd.Index:
        """Names of the cells that it was made from."""
        return self.screen.cells[self._used]

    @property
    def seen(self) -> tuple[str, ...]:
        """Conditions of the training cells, as they are stored."""
        return self.model.seen

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
        asked = self.model.facts.asked(conditions)
        answer = self.answer(asked, given, self._used)
        silent = self.model.facts.silent
        known = answer.identified[:, None] & ~silent
        found = answer.posterior
        ends = {
            "lower": found.lower,
            "upper": found.upper,
            "lower_50": found.lower_50,
            "upper_50": found.upper_50,
        }
        return AnnData(
            np.where(silent, 0, found.mean),
            obs=pd.DataFrame(
                {
                    "condition": [self.model.facts.stored(name) for name in asked],
                    "n_cells": answer.shown.n_cells,
                    "identified": answer.identified,
                },
                index=pd.Index(asked, dtype=str),
            ),
            var=pd.DataFrame({"silent": silent}, index=list(self.vocabulary.genes)),
            layers={
                "lfsr": np.where(known, found.lfsr, 1),
                **{name: np.where(known, end, np.nan) for name, end in ends.items()},
            },
            uns={"scale": given.scale or self.model.module.likelihood.scales[0]},
        )

    def cells(self, condition: str, *, n_cells: int, seed: int) -> sp.csr_matrix | None:
        """Return None: it predicts means alone."""
        return None

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
        scale = given.scale or self.model.module.likelihood.scales[0]
        stored = [self.model.facts.stored(name) for name in asked]
        seen = list(self.seen[1:])
        every = [*seen, *dict.fromkeys(name for name in stored if name not in seen)]
        effects = self.model.effects(
            every,
            scale=scale,
            library_size="observed",
            n_particles=given.n_particles,
            n_draws=_DRAWS,
            basal=given.basal,
            batch="observed" if self.vocabulary.batches else None,
            seed=given.seed,
            progress=given.progress,
        )
        half = (effects.layers["upper"] - effects.layers["lower"]) / 2
        variance = np.nan_to_num(half / _HALF_WIDTH) ** 2
        predicted = Predicted(np.asarray(effects.X, float), variance)
        values = Values.of(expression(self.screen, scale))
        train, valid, all_ = (
            self._shown(values, cells, every, scale)
            for cells in (*self._of_split.values(), observed)
        )
        prior = fitted_prior(train, valid, predicted, seed=given.seed)
        rows = [every.index(name) for name in stored]
        posterior = prior.posterior(all_, predicted)
        identified = np.asarray(effects.obs["identified"], bool)[rows]
        return Answer(
            Posterior(*(part[rows] for part in posterior)),
            Shown(*(part[rows] for part in all_)),
            Predicted(*(part[rows] for part in predicted)),
            prior,
            identified,
        )

    def _shown(
        self, values: Values, cells: np.ndarray, conditions: Sequence[str], scale: Scale
    ) -> Shown:
        """Return what some cells show of conditions.

        The variance of a gene is that of its cells and of one more, with a single count: of a gene
        that no cell has, it is not known to be 0.
        """
        screen = self.screen
        place = {name: i for i, name in enumerate(conditions)}
        position = np.array([place.get(name, -1) for name in screen.condition_names])
        group = np.where(cells, position[screen.condition], -1)
        control = cells & screen.is_control
        sums, compared, _ = within_batches(values, group, control, screen.batch, len(conditions))
        free = sums.n_cells + compared.n_cells - 2 * compared.n_batches
        one = _single_count(self.screen.train, scale)
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = (sums.squares + compared.squares + one**2) / (free + 1)[:, None]
            variance = squares * (1 / sums.n_cells + compared.inverse)[:, None]
        return Shown(sums.mean - compared.mean, variance, sums.n_cells)


def _single_count(screen: Screen, scale: Scale) -> float:
    """Return the expression of a gene of which a typical cell has one count."""
    if scale == "mean":
        return 0.0 if not screen.vocabulary.counts else 1.0
    share = SCALE_SIZE / max(1.0, float(np.median(np.asarray(screen.counts.sum(1)))))
    return float(np.log2(1 + share)) if scale == "log" else share
