"""What conditions do to cells: likelihood, effects, simulated cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from samsvae.answers.trained import Trained
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count, unknown
from samsvae.evaluation import simulation
from samsvae.evaluation.effects import LEVELS, ArmCells, Effect, EffectSettings, average_effects
from samsvae.evaluation.iwelbo import predictive_iwelbo
from samsvae.evaluation.latent import BasalPosterior
from samsvae.facts import expected_library_size
from samsvae.signature import shows
from samsvae.types import Scale


class Predictions(Trained):
    """What conditions do to cells."""

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
        mean of theirs. In `.attrs["joint"]` is the bound for all cells together, in which the
        globals are scored too (eq. 6 and 7 as printed): nats in all, not per cell.
        """
        check_count("n_particles", n_particles)
        loader = self.loader(screen)
        generator = self._generator(seed)
        result = predictive_iwelbo(
            self.module, loader, n_particles=n_particles, generator=generator, progress=progress
        )
        table = {"iwelbo": result.iwelbo, "mc_se": result.mc_se}
        frame = pd.DataFrame(table, index=loader.screen.cells)
        frame.attrs |= {"mean_mc_se": result.mean_mc_se, "joint": result.joint}
        return frame

    def effects(
        self,
        conditions: str | Sequence[str] | None = None,
        *,
        scale: Scale | None = None,
        library_size: float | Literal["observed"] = 1e4,
        n_particles: int = 2500,
        n_count_draws: int = 1,
        n_draws: int = 100,
        basal: Literal["prior", "control"] = "prior",
        batch: str | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> AnnData:
        """Return the average treatment effect of conditions on every gene, against control.

        ATE(d) = mean_k [E x | do(d), z_k, E_k, M_k] - [E x | do(0), z_k, E_k, M_k], z_k a basal
        state. Both arms share all draws, the noise of the counts included.

        Parameters
        ----------
        conditions
            Such as "KLF1", or "KLF1+CEBPA", seen in training or not; by default all conditions of
            the training cells but control. "@" gives a dose: "drugA@0.5".
        scale
            "log": drawn counts as log2(1 + 1e4 x / sum x), what the paper scores; "normalized":
            1e4 times the expected share of a gene, without drawing counts; "mean": the mean of the
            data, for likelihoods without a library size (Poisson, Gaussian). By default "log", or
            "mean" for those.
        library_size
            Expected counts of both arms over the screen's genes; "observed" draws them from the
            training cells of the condition (of all conditions, for one without cells) and of
            control. The log scale depends on it strongly, the others do not.
        n_particles
            K, draws of basal state, mask and embedding.
        n_count_draws
            Draws of counts per particle, for scale "log".
        n_draws
            Draws of mask and embedding behind the posterior interval, each averaged over the
            same basal draws; 0: no interval.
        basal
            Where basal states come from: their "prior" N(0, I) (the paper), or the posterior of
            the "control" training cells (at most 2,000 of them), in their own batches.
        batch
            Batch of both arms; by default drawn as in the training cells.
        seed
            Same seed, same numbers.
        progress
            Show a progress bar.

        Returns
        -------
        Conditions (as asked) x genes: `X` the ATE; layers "mc_se", its Monte Carlo standard
        error, "lower" and "upper", the 90 % posterior interval (the uncertainty of the effect,
        not the spread of cells), and "lower_50" and "upper_50", that of 50 %. `obs` holds each
        condition as it is stored (sorted) and its number of training cells: 0 for an unseen
        combination.

        Raises
        ------
        InputError
            If a perturbation was never seen in training, the model has no such scale, or an
            argument is out of range.
        """
        check_count("n_particles", n_particles, low=2)
        check_count("n_count_draws", n_count_draws)
        check_count("n_draws", n_draws, low=0)
        scales = self.module.likelihood.scales
        scale = scale or scales[0]
        if scale not in scales:
            raise unknown(f"scale for a {self.module.likelihood.name} likelihood:", scale, scales)
        size = expected_library_size(library_size)
        settings = EffectSettings(scale, size, n_particles, n_count_draws, n_draws, seed)
        self._check_answers(seed)
        asked = self.facts.asked(conditions)
        received = self.encoding(self.facts.received(asked))
        stored = [self.facts.stored(name) for name in asked]
        cells = ArmCells(
            [self.facts.library_sizes(name) for name in stored],
            self.facts.library_sizes(self.facts.conditions[0]),
            self.facts.shares_of(batch),
            self._states(basal, batch),
        )
        results = average_effects(self.module, received, settings, cells, progress=progress)
        n_cells = [self.facts.n_cells(name) for name in stored]
        return AnnData(
            np.array([result.ate for result in results]),
            obs=pd.DataFrame(
                {"condition": stored, "n_train_cells": n_cells}, index=pd.Index(asked, dtype=str)
            ),
            var=pd.DataFrame(index=list(self.facts.vocabulary.genes)),
            layers={"mc_se": np.array([result.mc_se for result in results]), **_ends(results)},
            uns={
                "scale": scale,
                "library_size": str(library_size),
                "basal": basal,
                "n_particles": n_particles,
            },
        )

    def _states(self, basal: str, batch: str | None) -> BasalPosterior | None:
        """Return the control cells' basal states, if asked for; in one batch, if it is given."""
        if basal not in ("prior", "control"):
            raise unknown("basal", basal, ["prior", "control"])
        if basal == "prior":
            return None
        states = self.control_basal
        if batch is None:
            return states
        share = torch.from_numpy(self.facts.shares_of(batch)).to(states.covariates)
        return states._replace(covariates=share.expand(len(states.loc), -1))

    @shows(effects)
    def dose_response(
        self,
        perturbation: str,
        doses: Sequence[float],
        *,
        background: str | None = None,
        **settings: Any,
    ) -> AnnData:
        """Return the effect of a perturbation on every gene, dose by dose.

        All doses share their draws, so the curve is smoother than its Monte Carlo errors say.

        Parameters
        ----------
        perturbation
            Its name.
        doses
            In the units of the screen, each at least 0.
        background
            Condition that the cells receive besides, such as "drugB@2".
        **settings
            As in `effects`.

        Returns
        -------
        Doses (ascending) x genes, as `effects` returns them, with the doses in `obs["dose"]`.

        Raises
        ------
        InputError
            As in `effects`, or if a dose is not a number of at least 0.
        """
        vocabulary = self.facts.vocabulary
        notation, names = vocabulary.notation, vocabulary.perturbations
        if perturbation not in names:
            raise unknown("perturbation", perturbation, names)
        besides = {} if background is None else notation.read(background, names)
        if perturbation in besides:
            raise InputError(f"the background {background!r} holds {perturbation!r} itself")
        ascending = sorted({dose for given in doses for dose in notation.doses(given)})
        received = [besides | ({perturbation: dose} if dose else {}) for dose in ascending]
        adata = self.effects([notation.write(condition) for condition in received], **settings)
        adata.obs["dose"] = ascending
        return adata

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
            in the condition's training cells (of all conditions, for one without cells). Of no
            account for likelihoods without a library size.
        seed
            Same seed, same counts.

        Returns
        -------
        Cells x genes: `X` counts, sparse (real values, dense, for a Gaussian likelihood); `obs` the
        condition, library size and, with `cells`, the cell it is.
        """
        check_count("n_cells", n_cells)
        asked = self.facts.asked(conditions)
        received = self.encoding(self.facts.received(asked))
        has_library_size = self.module.likelihood.has_library_size
        generator = self._generator(seed)
        rng = np.random.default_rng(seed)
        loader = None if cells is None else self.loader(cells)
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
            table = pd.DataFrame({"condition": name}, index=pd.RangeIndex(drawn[-1].shape[0]))
            if has_library_size:
                table["library_size"] = sizes
            if loader is not None:
                table["cell"] = loader.screen.cells.to_numpy()
            obs.append(table.set_index(name + ":" + table.index.astype(str)))
        var = pd.DataFrame(index=list(self.facts.vocabulary.genes))
        stacked = sp.vstack(drawn, "csr") if sp.issparse(drawn[0]) else np.concatenate(drawn)
        return AnnData(stacked, obs=pd.concat(obs), var=var)


def _ends(results: Sequence[Effect]) -> dict[str, np.ndarray]:
    """Return the ends of the intervals as layers, `condition gene` each."""
    ends = np.array([result.intervals for result in results])
    return {
        f"{end}{'' if level == 0.9 else f'_{level:.0%}'.rstrip('%')}": ends[:, i, j]
        for i, level in enumerate(LEVELS)
        for j, end in enumerate(("lower", "upper"))
    }
