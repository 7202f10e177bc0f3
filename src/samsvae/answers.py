"""What a trained model answers: likelihood, effects, simulated cells, masks, latent states."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from rich.progress import track

from samsvae.data.loader import Loader
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count, unknown
from samsvae.evaluation import simulation
from samsvae.evaluation.effects import ArmCells, EffectSettings, effect
from samsvae.evaluation.iwelbo import predictive_iwelbo
from samsvae.evaluation.latent import embedding_means, latent_means
from samsvae.facts import Facts, expected_library_size
from samsvae.model.vae import PerturbationVAE


class Answers:
    """The questions that every trained model of the family answers."""

    module: PerturbationVAE
    """The model itself."""
    facts: Facts
    """Names, and facts of the training cells."""
    is_trained: bool

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
        size = expected_library_size(library_size)
        settings = EffectSettings(scale, size, n_particles, n_count_draws, n_draws)
        asked = self.facts.asked(conditions)
        received = self.facts.received(asked)
        stored = [self.facts.stored(name) for name in asked]
        control_sizes = self.facts.library_sizes(self.facts.conditions[0])
        shares = self.facts.shares_of(batch)
        results = []
        for i in track(range(len(asked)), "effects", disable=not progress):
            cells = ArmCells(self.facts.library_sizes(stored[i]), control_sizes, shares)
            # Each condition starts from the same seed: its numbers do not depend on the others.
            generator = self._generator(seed)
            results.append(effect(self.module, received[i], settings, cells, generator))
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
        asked = self.facts.asked(conditions)
        received = self.facts.received(asked)
        generator = self._generator(seed)
        rng = np.random.default_rng(seed)
        loader = None if cells is None else self._loader(cells)
        drawn, obs = [], []
        for name, row in zip(asked, received, strict=True):
            if loader is not None:
                sizes = loader.screen.library_size
                drawn.append(simulation.given_cells(self.module, row, loader, generator))
            else:
                sizes = self.facts.drawn_library_sizes(name, library_size, n_cells, rng)
                drawn.append(
                    simulation.new_cells(
                        self.module,
                        row,
                        sizes,
                        self.facts.drawn_batches(n_cells, rng),
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
        self.facts.check_seen(np.flatnonzero(matched.cells_per_perturbation))
        return Loader(matched, next(self.module.parameters()).device)

    def _by_perturbation(self, values: torch.Tensor) -> pd.DataFrame:
        table = values.double().cpu().numpy()
        table[self.facts.cells_per_perturbation == 0] = np.nan
        columns = pd.Index([f"z{i}" for i in range(table.shape[1])], name="latent")
        index = pd.Index(self.facts.vocabulary.perturbations, name="perturbation")
        return pd.DataFrame(table, index, columns)
