"""The base of the family: hyperparameters, training, saving; what it answers is in other files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
import torch

from samsvae._deprecated import renamed_method
from samsvae.data.loader import Loader
from samsvae.data.names import Encoding, Separate
from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.estimators import saving
from samsvae.estimators.cautions import Cautions
from samsvae.estimators.consistency import Evidence
from samsvae.estimators.deviations import Deviations
from samsvae.estimators.discrepancy import learned_discrepancy
from samsvae.estimators.mechanisms import LatentSpace, Mechanisms
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.estimators.predictions import Predictions
from samsvae.estimators.responses import Responses
from samsvae.estimators.saving import Saved
from samsvae.estimators.starting import input_statistics, library_shares
from samsvae.estimators.trained import TrainedModel, delegated
from samsvae.estimators.unmeasured import with_features
from samsvae.inference.latent import control_posterior
from samsvae.inference.responders import update_response_rates
from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import LIKELIHOODS, Likelihood
from samsvae.model.mechanism import Mechanism
from samsvae.model.networks import MLP, OneHot
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.device import resolve_device
from samsvae.settings.arguments import check, check_fields, checked
from samsvae.settings.fields import takes
from samsvae.settings.model import NetworkSettings
from samsvae.settings.train import TrainSettings
from samsvae.train.loop import Training
from samsvae.train.processes import processes

_N_CONTROL = 2000
"""Most control cells whose basal states a model keeps."""

Named = TypeVar("Named", bound="HasName")


class HasName(Protocol):
    """What is chosen by name."""

    name: ClassVar[str]


@dataclass(kw_only=True, eq=False, repr=False)
class Estimator(NetworkSettings, TrainedModel, ABC):
    """A model of a screen: its fields are its hyperparameters, see `samsvae.settings.model`.

    The screen has a split; its training cells give the model its sizes and names. It is an error
    if there are no training or control cells.
    """

    screen: InitVar[Screen | TrainingMetadata] = field(kw_only=False)

    iwelbo = delegated(Predictions, Predictions.iwelbo)
    effects = delegated(Predictions, Predictions.effects)
    dose_response = delegated(Predictions, Predictions.dose_response)
    simulate = delegated(Predictions, Predictions.simulate)
    cells = delegated(Predictions, Predictions.cells)
    mask_probabilities = delegated(LatentSpace, LatentSpace.mask_probabilities)
    embeddings = delegated(LatentSpace, LatentSpace.embeddings)
    inclusion = delegated(Evidence, Evidence.inclusion)
    dose_parameters = delegated(LatentSpace, LatentSpace.dose_parameters)
    latent = delegated(LatentSpace, LatentSpace.latent)
    mechanisms = delegated(Mechanisms, Mechanisms.mechanisms)
    programs = delegated(Mechanisms, Mechanisms.programs)
    context_differences = delegated(Deviations, Deviations.context_differences)
    interactions = delegated(Deviations, Deviations.interactions)
    responders = delegated(Responses, Responses.responders)
    cautions = delegated(Cautions, Cautions.cautions)
    with_features = with_features

    def __post_init__(self, screen: Screen | TrainingMetadata) -> None:
        if not isinstance(screen, TrainingMetadata):
            check("screen", screen, Screen)
        check_fields(self)
        self._screen = screen if isinstance(screen, Screen) else None
        if self._screen is not None and self._screen.absence is not None:
            self._check_uncertain()
        self.metadata = (
            screen if isinstance(screen, TrainingMetadata) else TrainingMetadata.of(screen)
        )
        self.encoding = self._encoding()
        self.history = pd.DataFrame()
        """One row per evaluation of the validation cells, see `train`."""
        self.is_trained = False
        self.module = self._built(seed=0)
        if self._screen is not None:
            encoder = self.module.encoder
            statistics = input_statistics(
                self._screen.train, log1p=encoder.log1p, unobserved=encoder.unobserved
            )
            encoder.standardise_with(*statistics)

    def _check_uncertain(self) -> None:
        """Raise, for a screen with uncertain sgRNAs, unless the model can tell what acts."""
        if not getattr(self, "learn_responders", False):
            raise InputError(
                "the screen has cells of uncertain sgRNAs: give learn_responders=True (SAMSVAE, "
                "CPAVAE), which weighs them, or read it without uncertain_sgrnas"
            )

    @abstractmethod
    def _mechanism(self) -> Mechanism:
        """Return how perturbations act, with fresh parameters."""

    @abstractmethod
    def _encoder(self, mechanism: Mechanism) -> Encoder:
        """Return the posterior of the basal state, with fresh parameters."""

    def _encoding(self) -> Encoding:
        """Return which columns of dosage the model has parameters for."""
        return Separate(self.metadata.registry, self.metadata.median_dose)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @checked
    @takes(TrainSettings)
    def train(self, **settings: Any) -> Self:
        """Train from fresh parameters; return the model with the best predictive validation ELBO.

        `history` then holds one row per evaluation: the objective, the unweighted ELBO and each of
        its terms (nats per cell, means over the steps since the row before), the ELBO of the
        validation cells (`valid_elbo`: predictive, so masks and embeddings are drawn from their
        posterior and their KL terms, a cost of the training cells, do not count: it may exceed
        `elbo`), the Monte Carlo standard error of its draws (`valid_elbo_mc_se`: at most 0.02, but
        for few cells or a model that has hardly learned) and whether it is the best so far
        (`is_best`: if the last one is, longer training may well be better), mask sparsity (share of
        posterior inclusion probabilities of at most 1/2), norm of the gradient, cells per second.
        A model that infers masks is aligned half way (see `alignment`): `is_aligned` marks the rows
        after that, and the model that is kept is one of these.

        Parameters
        ----------
        **settings
            As in `samsvae.TrainSettings`.

        Raises
        ------
        InputError
            If a setting is out of range or the checkpoint is of another run.
        NonFiniteError, TrainingInterrupted
            If the ELBO is no longer finite; on Ctrl-C or SIGTERM. The best parameters are kept.

        Examples
        --------
        >>> sizes = {"n_perturbations": 3, "n_combinations": 1, "n_genes": 20}
        >>> screen = samsvae.datasets.simulated_screen(**sizes)
        >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
        >>> model = model.train(max_steps=5, progress=False)
        >>> list(model.history["step"]), model.is_trained
        ([2, 5], True)
        """
        return self.train_with(TrainSettings(**settings))

    def train_with(
        self, chosen: TrainSettings, *, saved: Callable[[], None] = lambda: None
    ) -> Self:
        """Train as `train` does, and call a function after every checkpoint."""
        device = resolve_device(chosen.device)
        with processes(device) as together:
            screen = self._trainable(chosen)
            train, valid = (self._loader(cells, device) for cells in (screen.train, screen.valid))
            standard = self.module.encoder  # holds the input statistics, whatever it has learned
            self.module = self._built(chosen.seed).to(device)
            self.module.encoder.standardise_with(standard.center, standard.scale)
            identity = {"name": self.name, **self.hyperparameters}
            for later in ("learn_responders", "learn_interactions"):
                if not identity.get(later):  # as in checkpoints before there was a choice
                    identity.pop(later, None)
            history: list[dict[str, float]] = []
            training = Training(
                self.module,
                train,
                valid,
                chosen,
                identity=identity,
                history=history,
                saved=saved,
                processes=together,
            )
            try:
                training.run()
            except BaseException:
                with suppress(Exception):  # report the error that ended training, not a later one
                    self._finish(history, train)
                raise
            self._finish(history, train)
            if self.is_trained:
                learned: dict[str, Any] = learned_discrepancy(self, screen.valid, screen.train)
                self.metadata = replace(self.metadata, **learned)
        return self

    def _finish(self, history: list[dict[str, float]], train: Loader) -> None:
        """Take over the history and the best parameters so far, even if training ended early."""
        self.history = pd.DataFrame(history)
        self.is_trained = bool(history)
        update_response_rates(self.module, train)
        additive = self.module.mechanism.additive
        if additive is not None and additive.kinds is not None:
            additive.without_cells(torch.from_numpy(train.cells_per_column == 0).to(train.device))
        self._keep_control(train)

    def _keep_control(self, train: Loader) -> None:
        """Keep the posterior of control cells' basal states, so that no data are needed for it."""
        control = np.flatnonzero(train.screen.is_control)
        if len(control) > _N_CONTROL:
            control = np.sort(np.random.default_rng(0).choice(control, _N_CONTROL, replace=False))
        cells = self._loader(train.screen[control], train.device)
        self.control_basal = control_posterior(self.module, cells)

    @takes(TrainSettings)
    def check_training(self, **settings: Any) -> None:
        """Raise what `train` would raise before its first step; nothing is changed."""
        screen = self._trainable(TrainSettings(**settings))
        used = np.isin(np.asarray(screen.split), ["train", "valid"])
        self.encoding(screen.dosage[used], screen.batch[used])

    def _trainable(self, settings: TrainSettings) -> Screen:
        """Return the screen, if there is one that the settings go with."""
        if self._screen is None:
            raise InputError("a loaded model has no data to train on: make it anew from a screen")
        settings.check_variables(self.module.variables)
        settings.check_evaluations(len(self._screen.train))
        return self._screen

    @checked
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save the model as `model.json` and `model.safetensors`, for `samsvae.load`.

        It is an error if a file cannot be written; the old ones are then unchanged.
        """
        if not self.is_trained:
            raise InputError("the model is not trained: there is nothing to save yet")
        saved = Saved(
            estimator=self.name,
            hyperparameters=self.hyperparameters,
            history=self.history.to_dict("list"),
            metadata=self.metadata,
            state=self.module.state_dict(),
            control_basal=self.control_basal,
        )
        saving.write(saved, folder)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Columns of dosage, as the model encodes them, and latent dimensions L."""
        return len(self.encoding.columns), self.n_latent

    def _built(self, seed: int) -> PerturbationVAE:
        """Return the model with fresh parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mechanism = self._mechanism()
            encoder = self._encoder(mechanism)
            width = self.n_hidden_decoder or self.n_hidden
            parts = (*mechanism.state_widths, OneHot(self.metadata.registry.n_covariates))
            decoder = MLP(parts, width, self.n_layers_decoder or self.n_layers)
            return PerturbationVAE(mechanism, encoder, decoder, self._likelihood(width))

    def _amortised(self, *, n_context: int, kind: type[Encoder] = Encoder) -> Encoder:
        """Return an encoder that sees a context of some width."""
        registry = self.metadata.registry
        return kind(
            len(registry.genes),
            registry.n_covariates,
            self.n_latent,
            n_context=n_context,
            width=self.n_hidden,
            n_layers=self.n_layers,
            log1p=registry.counts,
            unobserved=self._unobserved,
        )

    @property
    def _chosen(self) -> type[Likelihood]:
        return by_name("likelihood", self.likelihood, LIKELIHOODS)

    @property
    def _unobserved(self) -> bool:
        """Whether library sizes count more than the screen's genes, and enter the density."""
        return self.metadata.unobserved and "log" in self._chosen.scales

    def _likelihood(self, width: int) -> Likelihood:
        registry, chosen = self.metadata.registry, self._chosen
        if chosen.counts != registry.counts:
            kinds = ("real values", "counts")
            raise InputError(
                f"the {chosen.name} likelihood needs {kinds[chosen.counts]}, not "
                f"{kinds[registry.counts]}: read the data with counts={chosen.counts}, or take "
                "another likelihood"
            )
        likelihood = chosen(width, len(registry.genes), unobserved=self._unobserved)
        if self._unobserved and self._screen is not None:  # a loaded model starts from what it is
            likelihood.start_at(library_shares(self._screen.train))
        return likelihood

    def __getattr__(self, name: str) -> Any:
        return renamed_method(self, name)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        metadata = self.metadata
        state = "trained" if self.is_trained else "not trained"
        return (
            f"{type(self).__name__}({settings})\n  {state}; "
            f"{len(metadata.registry.genes):,} genes, "
            f"{len(metadata.trained_perturbations):,} perturbations, "
            f"{len(metadata.library_size):,} training cells"
        )


def by_name(kind: str, name: str, known: Iterable[type[Named]]) -> type[Named]:
    """Return the class of a name; raise if there is none."""
    classes = {one.name: one for one in known}
    if name not in classes:
        raise unknown(kind, name, list(classes))
    return classes[name]
