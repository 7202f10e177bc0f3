"""What every model of the family can do: train, answer, save. The members are declared in
`samsvae.estimators`."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from rich.progress import track

from samsvae import saving
from samsvae.data import dosage
from samsvae.data.loader import Loader
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count, check_range, listed, unknown
from samsvae.evaluation import simulation
from samsvae.evaluation.effects import ArmCells, EffectSettings, effect
from samsvae.evaluation.iwelbo import predictive_iwelbo
from samsvae.evaluation.latent import embedding_means, latent_means
from samsvae.facts import Facts, input_statistics
from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import NegativeBinomialLikelihood
from samsvae.model.networks import MLP
from samsvae.model.vae import PerturbationVAE
from samsvae.signature import takes
from samsvae.train.loop import fit
from samsvae.train.settings import TrainSettings, resolve_device


@dataclass(kw_only=True, eq=False, repr=False)
class Estimator(ABC):
    """A model of a screen: its fields are its hyperparameters.

    Parameters
    ----------
    screen
        The screen, with a split; its training cells give the model its sizes and names.
    n_latent
        Latent dimensions L.
    n_hidden
        Width of the hidden layers of encoder and decoder.
    n_layers
        Hidden layers of encoder and decoder, at least 1.

    Raises
    ------
    InputError
        If a hyperparameter is out of range, or there are no training or control cells.
    """

    screen: InitVar[Screen | Facts] = field(kw_only=False)
    n_latent: int = 100
    n_hidden: int = 400
    n_layers: int = 1

    def __post_init__(self, screen: Screen | Facts) -> None:
        for name, value in self.hyperparameters.items():
            if isinstance(value, np.generic):  # JSON, in which they are saved, knows no NumPy
                setattr(self, name, value.item())
            if name.startswith("n_"):
                check_count(name, value)
        self._screen = screen if isinstance(screen, Screen) else None
        self.facts = screen if isinstance(screen, Facts) else Facts.of(screen)
        self.history = pd.DataFrame()
        """One row per evaluation of the validation cells, see `train`."""
        self.is_trained = False
        self.module = self._built(seed=0)

    @abstractmethod
    def _parts(self) -> PerturbationVAE:
        """Return the model with fresh parameters."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @takes(TrainSettings.__init__)
    def train(self, **settings: Any) -> Self:
        """Train from fresh parameters; keep those of the best validation ELBO.

        `history` then holds one row per evaluation: the ELBO and each of its terms (nats per cell,
        means over the steps since the row before), the validation ELBO, mask sparsity (share of
        posterior inclusion probabilities of at most 1/2), norm of the gradient, cells per second.

        Parameters
        ----------
        **settings
            As in `samsvae.TrainSettings`.

        Returns
        -------
        The model itself.

        Raises
        ------
        InputError
            If a setting is out of range or the checkpoint is of another run.
        NonFiniteError
            If the ELBO is no longer finite; the best parameters so far are kept.
        TrainingInterrupted
            On Ctrl-C or SIGTERM; the best parameters so far are kept.
        """
        chosen = TrainSettings(**settings)
        if self._screen is None:
            raise InputError("a loaded model has no data to train on: make it anew from a screen")
        device = resolve_device(chosen.device)
        self.module = self._built(chosen.seed).to(device)
        train, valid = Loader(self._screen.train, device), Loader(self._screen.valid, device)
        history: list[dict[str, float]] = []
        try:
            fit(self.module, train, valid, chosen, history)
        finally:  # training that ends early leaves the best parameters so far
            self.history = pd.DataFrame(history)
            self.is_trained = bool(history)
        return self

    def iwelbo(
        self, screen: Screen, *, n_particles: int = 1000, seed: int = 0, progress: bool = True
    ) -> pd.DataFrame:
        """Return the predictive importance weighted likelihood of each cell.

        log 1/K sum_k p(x | z_k) p(z_basal_k) / q(z_basal_k | x), the globals E and M drawn from
        their posterior and shared by all cells (section 4 of the paper). Memory does not grow
        with K.

        Parameters
        ----------
        screen
            The cells, say `screen.test`; matched by gene and perturbation name.
        n_particles
            K. More give a tighter, higher bound.
        seed
            Same seed, same numbers.
        progress
            Show a progress bar.

        Returns
        -------
        By cell: iwelbo, and its Monte Carlo standard error mc_se, in nats. The standard error of
        the mean over cells is in `.attrs["mean_mc_se"]`: the cells share draws, so it is not the
        mean of theirs.
        """
        check_count("n_particles", n_particles)
        loader = self._loader(screen)
        generator = self._generator(seed)
        result = predictive_iwelbo(
            self.module, loader, n_particles=n_particles, generator=generator, progress=progress
        )
        table = {"iwelbo": result.iwelbo, "mc_se": result.mc_se}
        frame = pd.DataFrame(table, index=loader.screen.cells)
        frame.attrs["mean_mc_se"] = result.mean_mc_se
        return frame

    def effects(
        self,
        conditions: str | Sequence[str] | None = None,
        *,
        scale: Literal["log", "normalized"] = "log",
        library_size: float | Literal["observed"] = 1e4,
        n_particles: int = 2500,
        n_count_draws: int = 1,
        n_draws: int = 100,
        batch: str | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> AnnData:
        """Return the average treatment effect of conditions on every gene, against control.

        ATE(d) = mean_k [E x | do(d), z_k, E_k, M_k] - [E x | do(0), z_k, E_k, M_k], the basal
        states z_k from their prior. Both arms share all draws, the noise of the counts included.

        Parameters
        ----------
        conditions
            Such as "KLF1", or "KLF1+CEBPA", seen in training or not; by default all conditions of
            the training cells but control. "@" gives a dose: "drugA@0.5".
        scale
            "log": drawn counts as log2(1 + 1e4 x / sum x), what the paper scores; "normalized":
            1e4 times the expected share of a gene, without drawing counts.
        library_size
            Expected counts of both arms over the screen's genes; "observed" draws them from the
            training cells of the condition (of all conditions, for one without cells) and of
            control. The log scale depends on it strongly.
        n_particles
            K, draws of basal state, mask and embedding.
        n_count_draws
            Draws of counts per particle, for scale "log".
        n_draws
            Draws of mask and embedding behind the posterior interval, each averaged over the
            same basal draws; 0: no interval.
        batch
            Batch of both arms; by default drawn as in the training cells.
        seed
            Same seed, same numbers.
        progress
            Show a progress bar.

        Returns
        -------
        Conditions (as asked) x genes: `X` the ATE; layers "mc_se", its Monte Carlo standard
        error, and "lower", "upper", the 90 % posterior interval (the uncertainty of the effect,
        not the spread of cells). `obs` holds each condition as it is stored (sorted) and its
        number of training cells: 0 for an unseen combination.

        Raises
        ------
        InputError
            If a perturbation was never seen in training, or an argument is out of range.
        """
        check_count("n_particles", n_particles, low=2)
        check_count("n_count_draws", n_count_draws)
        check_count("n_draws", n_draws, low=0)
        if scale not in ("log", "normalized"):
            raise unknown("scale", scale, ["log", "normalized"])
        size = float("nan")
        if library_size != "observed":
            check_range("library_size", float(library_size), low=0, high=np.inf, open_=True)
            size = float(library_size)
        settings = EffectSettings(scale, size, n_particles, n_count_draws, n_draws)
        asked = self._asked(conditions)
        received = self._received(asked)
        results = []
        for i in track(range(len(asked)), "effects", disable=not progress):
            cells = ArmCells(
                self.facts.library_sizes(self._stored(asked[i])),
                self.facts.library_sizes(self.facts.conditions[0]),
                self._batch_shares(batch),
            )
            # Each condition starts from the same seed: its numbers do not depend on the others.
            generator = self._generator(seed)
            results.append(effect(self.module, received[i], settings, cells, generator))
        stored = [self._stored(name) for name in asked]
        n_cells = [self.facts.n_cells(name) for name in stored]
        return AnnData(
            np.array([result.ate for result in results]),
            obs=pd.DataFrame(
                {"condition": stored, "n_train_cells": n_cells}, index=pd.Index(asked, dtype=str)
            ),
            var=pd.DataFrame(index=list(self.facts.vocabulary.genes)),
            layers={
                name: np.array([getattr(result, name) for result in results])
                for name in ("mc_se", "lower", "upper")
            },
            uns={"scale": scale, "library_size": str(library_size), "n_particles": n_particles},
        )

    def simulate(
        self,
        conditions: str | Sequence[str],
        *,
        n_cells: int = 1000,
        cells: Screen | None = None,
        library_size: float | Literal["observed"] = "observed",
        seed: int = 0,
    ) -> AnnData:
        """Draw counts of cells under conditions.

        Parameters
        ----------
        conditions
            As in `effects`.
        n_cells
            New cells per condition: each draws its own basal state, mask and embedding.
        cells
            Instead of new cells: what these very cells would have shown under each condition,
            at their own basal state (drawn from its posterior), library size and batch. One draw
            of masks and embeddings is shared by all of them.
        library_size
            Of new cells: expected counts over the screen's genes, or drawn from those "observed"
            in the condition's training cells (of all conditions, for one without cells).
        seed
            Same seed, same counts.

        Returns
        -------
        Cells x genes: `X` counts, sparse; `obs` the condition, library size and, with `cells`,
        the cell it is.
        """
        check_count("n_cells", n_cells)
        asked = self._asked(conditions)
        received = self._received(asked)
        generator = self._generator(seed)
        rng = np.random.default_rng(seed)
        loader = None if cells is None else self._loader(cells)
        drawn, obs = [], []
        for name, row in zip(asked, received, strict=True):
            if loader is not None:
                sizes = loader.screen.library_size
                drawn.append(simulation.given_cells(self.module, row, loader, generator))
            else:
                sizes = self._library_sizes(name, library_size, n_cells, rng)
                drawn.append(
                    simulation.new_cells(
                        self.module,
                        row,
                        sizes,
                        self._drawn_batches(n_cells, rng),
                        generator,
                        panel=library_size != "observed",
                    )
                )
            table = pd.DataFrame({"condition": name, "library_size": sizes})
            if loader is not None:
                table["cell"] = loader.screen.cells.to_numpy()
            obs.append(table.set_index(name + ":" + table.index.astype(str)))
        var = pd.DataFrame(index=list(self.facts.vocabulary.genes))
        return AnnData(sp.vstack(drawn, format="csr"), obs=pd.concat(obs), var=var)

    def mask_probabilities(self) -> pd.DataFrame:
        """Return the posterior probability that a perturbation shifts a latent dimension.

        Returns
        -------
        Perturbations x latent dimensions. A perturbation never seen in training is NaN.
        """
        return self._by_perturbation(self.module.mechanism.mask.probability().detach())

    def embeddings(self) -> pd.DataFrame:
        """Return the posterior mean of each embedding, given its most probable mask.

        Returns
        -------
        Perturbations x latent dimensions. A perturbation never seen in training is NaN.
        """
        return self._by_perturbation(embedding_means(self.module))

    def latent(
        self, screen: Screen, *, n_particles: int = 10, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the posterior means of cells' basal states and states.

        Parameters
        ----------
        screen
            The cells; matched by gene and perturbation name.
        n_particles
            Draws of mask and embedding that are averaged over.
        seed
            Same seed, same numbers.

        Returns
        -------
        "basal" and "state", `cell latent`: ready for `adata.obsm.update(...)`.
        """
        check_count("n_particles", n_particles)
        return latent_means(self.module, self._loader(screen), n_particles, self._generator(seed))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save the model as `model.json` and `model.safetensors`, for `samsvae.load`.

        Each file is whole or not there; names of genes and perturbations are inside.

        Raises
        ------
        InputError
            If a file cannot be written; the old ones are unchanged.
        """
        saving.save(self, folder)

    def _built(self, seed: int) -> PerturbationVAE:
        """Return the model with fresh parameters and the training cells' input statistics."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self._parts()
        if self._screen is not None:
            encoder = module.encoder
            encoder.standardise_with(*input_statistics(self._screen.train, log1p=encoder.log1p))
        return module

    def _encoder(self, *, n_context: int) -> Encoder:
        vocabulary = self.facts.vocabulary
        return Encoder(
            len(vocabulary.genes),
            len(vocabulary.batches),
            self.n_latent,
            n_context=n_context,
            width=self.n_hidden,
            n_layers=self.n_layers,
            log1p=vocabulary.counts,
        )

    def _decoder(self, *, n_state: int) -> MLP:
        widths = (n_state, len(self.facts.vocabulary.batches))
        return MLP(widths, self.n_hidden, self.n_layers)

    def _likelihood(self) -> NegativeBinomialLikelihood:
        facts = self.facts
        if not facts.vocabulary.counts:
            raise InputError("the negative binomial likelihood needs counts, not real values")
        n_genes = len(facts.vocabulary.genes)
        return NegativeBinomialLikelihood(self.n_hidden, n_genes, unobserved=facts.unobserved)

    def _generator(self, seed: int) -> torch.Generator:
        check_count("seed", seed, low=0)
        if not self.is_trained:
            raise InputError("the model is not trained: call train first")
        return torch.Generator(next(self.module.parameters()).device).manual_seed(seed)

    def _loader(self, screen: Screen) -> Loader:
        """Return the loader of a screen matched to the model's names."""
        matched, n_ignored = screen.matched_to(self.facts.vocabulary)
        if n_ignored:
            warnings.warn(
                f"{n_ignored} genes that the model does not know are ignored", stacklevel=3
            )
        if not len(matched):
            raise InputError("the screen has no cells")
        strange = self._unseen(np.flatnonzero(matched.cells_per_perturbation))
        if strange:
            raise InputError(f"perturbations never seen in training: {listed(strange)}")
        return Loader(matched, next(self.module.parameters()).device)

    def _unseen(self, perturbations: np.ndarray) -> list[str]:
        """Return the names of those perturbations that no training cell received."""
        names = self.facts.vocabulary.perturbations
        return [names[t] for t in perturbations if not self.facts.cells_per_perturbation[t]]

    def _asked(self, conditions: str | Sequence[str] | None) -> list[str]:
        asked = self.facts.conditions[1:] if conditions is None else conditions
        asked = [asked] if isinstance(asked, str) else list(dict.fromkeys(asked))
        if not asked:
            raise InputError("no conditions are asked for")
        return asked

    def _stored(self, condition: str) -> str:
        """Return a condition as it is stored: sorted."""
        vocabulary = self.facts.vocabulary
        return vocabulary.notation.write(
            vocabulary.notation.read(condition, vocabulary.perturbations)
        )

    def _received(self, conditions: Sequence[str]) -> sp.csr_matrix:
        """Return conditions as dosage, refusing perturbations never seen in training."""
        vocabulary = self.facts.vocabulary
        read = vocabulary.notation.read
        received = [read(name, vocabulary.perturbations) for name in conditions]
        rows = dosage.rows(received, vocabulary.perturbations)
        strange = self._unseen(np.unique(rows.indices))
        if strange:
            raise InputError(
                f"perturbations never seen in training: {listed(strange)}; combinations need not "
                "be seen, but each of their perturbations must"
            )
        return rows

    def _batch_shares(self, batch: str | None) -> np.ndarray:
        if batch is None:
            return self.facts.batch_shares
        batches = self.facts.vocabulary.batches
        if batch not in batches:
            raise unknown("batch", batch, batches)
        return np.array([float(name == batch) for name in batches])

    def _drawn_batches(self, n_cells: int, rng: np.random.Generator) -> np.ndarray:
        """Return `cell covariate`: batches drawn as in the training cells, one-hot."""
        shares = self.facts.batch_shares
        if not len(shares):
            return np.zeros((n_cells, 0))
        return np.eye(len(shares))[rng.choice(len(shares), n_cells, p=shares)]

    def _library_sizes(
        self, condition: str, library_size: float | str, n: int, rng: np.random.Generator
    ) -> np.ndarray:
        if library_size != "observed":
            check_range("library_size", float(library_size), low=0, high=np.inf, open_=True)
            return np.full(n, float(library_size))
        return rng.choice(self.facts.library_sizes(self._stored(condition)), n)

    def _by_perturbation(self, values: torch.Tensor) -> pd.DataFrame:
        table = values.double().cpu().numpy()
        table[self.facts.cells_per_perturbation == 0] = np.nan
        columns = pd.Index([f"z{i}" for i in range(table.shape[1])], name="latent")
        index = pd.Index(self.facts.vocabulary.perturbations, name="perturbation")
        return pd.DataFrame(table, index, columns)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        facts = self.facts
        state = "trained" if self.is_trained else "not trained"
        return (
            f"{type(self).__name__}({settings})\n  {state}; {len(facts.vocabulary.genes):,} genes, "
            f"{len(facts.seen):,} perturbations, {len(facts.library_size):,} training cells"
        )
