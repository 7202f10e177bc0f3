"""A trained model, as its answers need it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from samsvae._deprecated import renamed_attribute
from samsvae.data.alignment import align_screen
from samsvae.data.loader import Loader
from samsvae.data.names import Encoding, NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count, listed
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.inference.latent import BasalPosterior
from samsvae.model.mechanism import MOST
from samsvae.model.vae import PerturbationVAE


class Trained:
    """A trained model, with the names that its numbers stand for."""

    module: PerturbationVAE
    """The model itself."""
    metadata: TrainingMetadata
    """Names, and facts of the training cells."""
    encoding: Encoding
    """From what a cell received to the model's own columns of dosage."""
    name: ClassVar[str]
    """By which it is chosen at the command line and saved."""
    is_trained: bool
    has_likelihood: ClassVar[bool] = True
    control_basal: BasalPosterior
    """Of control training cells, once trained."""

    @property
    def registry(self) -> NameRegistry:
        """The names that it knows."""
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

    def _check_answers(self, seed: int) -> None:
        """Raise unless the model is trained, its parameters are numbers, and the seed is one."""
        check_count("seed", seed, low=0)
        if not self.is_trained:
            raise InputError("the model is not trained: call train first")
        wrong = self.module.not_finite()
        if wrong:
            raise InputError(
                f"the model holds parameters that are not finite, in {listed(wrong)}: it has no "
                "answer; train it anew"
            )

    def _generator(self, seed: int) -> torch.Generator:
        self._check_answers(seed)
        return torch.Generator(next(self.module.parameters()).device).manual_seed(seed)

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
        self.metadata.check_seen(np.flatnonzero(matched.cells_per_perturbation))
        present = np.unique(matched.batch) if matched.registry.batches else ()
        self.metadata.check_batches([matched.registry.batches[i] for i in present])
        device = next(self.module.parameters()).device
        loader = Loader(matched, device, encoding=self.encoding, sgrnas=self._sgrnas)
        if self._sgrnas is not None:
            check_slots(loader.n_slots)
        return loader

    @property
    def _sgrnas(self) -> tuple[tuple[str, str], ...] | None:
        """The sgRNAs with a probability of response of their own; None: all cells respond."""
        return None if self.module.mechanism.responders is None else self.metadata.sgrnas


def check_slots(n_slots: int) -> None:
    """Raise if cells have more perturbations than all sets of them can be summed over."""
    if n_slots > MOST:
        raise InputError(
            f"a cell has {n_slots} perturbations: with response='learned' all sets of those that "
            f"may act are summed over, so at most {MOST} are possible; take response='all', or "
            "leave out such cells"
        )
