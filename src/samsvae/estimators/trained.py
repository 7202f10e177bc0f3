"""A trained model with the names that its numbers stand for, as its answers need it."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import torch

from samsvae._deprecated import renamed_attribute
from samsvae.data.alignment import align_screen
from samsvae.data.loader import Loader
from samsvae.data.names import Encoding, NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.inference.latent import BasalPosterior
from samsvae.model.mechanism import MAX_SLOTS, Responding
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.arguments import Natural, check
from samsvae.types import Scale

Answers = TypeVar("Answers")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class TrainedModel:
    """A trained model, with the names that its numbers stand for."""

    name: ClassVar[str]
    """The name by which it is chosen at the command line, and under which it is saved."""
    has_likelihood: ClassVar[bool] = True
    module: PerturbationVAE
    """The model itself."""
    metadata: TrainingMetadata
    """Names and numbers of the training cells."""
    encoding: Encoding
    """From what a cell received to the model's own columns of dosage."""
    is_trained: bool
    history: pd.DataFrame
    """One row per evaluation of the validation cells."""
    control_basal: BasalPosterior
    """Posterior of control training cells' basal states, once trained."""
    _screen: Screen | None
    """What it was made from; None: it was loaded."""

    @property
    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters, by name."""

    @property
    def registry(self) -> NameRegistry:
        """The names that the model knows."""
        return self.metadata.registry

    @property
    def fitted_on(self) -> pd.Index:
        """Names of the training cells: a model keeps none."""
        return pd.Index([])

    @property
    def training_conditions(self) -> tuple[str, ...]:
        """Conditions of the training cells, as they are stored."""
        return self.metadata.conditions

    remembered = renamed_attribute("remembered", "fitted_on")
    seen = renamed_attribute("seen", "training_conditions")

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.module.parameters()).device

    @property
    def default_scale(self) -> Scale:
        """The scale of its effects, unless another is asked for."""
        return self.module.likelihood.scales[0]

    @property
    def has_responders(self) -> bool:
        """Whether perturbations act in a share of the cells only, which the model has learned."""
        return isinstance(self.module.mechanism, Responding)

    def check_can_answer(self) -> None:
        """Raise unless the model is trained and its parameters are finite."""
        if not self.is_trained:
            raise InputError("the model is not trained: call train first")
        wrong = self.module.not_finite()
        if wrong:
            raise InputError(
                f"the model has parameters that are not finite, in {listed(wrong)}, and cannot "
                "answer: train it again"
            )

    def generator(self, seed: int) -> torch.Generator:
        """Return a random number generator on the model's device, if the model can answer."""
        check("seed", seed, Natural)
        self.check_can_answer()
        return torch.Generator(self.device).manual_seed(seed)

    def answers_for(self, condition: str) -> bool:
        """Whether the model has an answer for a condition."""
        try:
            self.encoding(self.metadata.received([condition]))
        except InputError:
            return False
        return True

    def matched(self, screen: Screen) -> Screen:
        """Return a screen aligned with the model's genes, perturbations and batches by name."""
        return align_screen(screen, self.metadata.registry)

    def loader(self, screen: Screen) -> Loader:
        """Return the loader of a screen matched to the model's names."""
        matched = self.matched(screen)
        if not len(matched):
            raise InputError("the screen has no cells")
        self.metadata.check_trained(np.flatnonzero(matched.cells_per_perturbation))
        present = np.unique(matched.batch) if matched.registry.batches else ()
        self.metadata.check_batches([matched.registry.batches[i] for i in present])
        loader = self._loader(matched, self.device)
        if self.has_responders:
            check_slots(loader.n_slots)
        return loader

    def _loader(self, screen: Screen, device: torch.device) -> Loader:
        """Return the loader of a screen that has the model's names already."""
        sgrnas = self.metadata.sgrnas if self.has_responders else None
        encoding = self.encoding.among(screen.registry)
        return Loader(screen, device, encoding=encoding, sgrnas=sgrnas)


def delegated(
    answers: Callable[[Any], Answers],
    method: Callable[Concatenate[Answers, Parameters], Result],
) -> Callable[Concatenate[Any, Parameters], Result]:
    """Return a method that an object made of the model answers, with signature and docstring."""

    @functools.wraps(method)
    def answer(model: Any, /, *args: Parameters.args, **settings: Parameters.kwargs) -> Result:
        return method(answers(model), *args, **settings)

    return answer


def check_slots(n_slots: int) -> None:
    """Raise if a cell has more perturbations than all subsets of them can be summed over."""
    if n_slots > MAX_SLOTS:
        raise InputError(
            f"a cell has {n_slots} perturbations: with learn_responders=True all subsets of those "
            f"that may act are summed over, so at most {MAX_SLOTS} are possible; leave such cells "
            "out, or take learn_responders=False"
        )
