"""What conditions do to cells: likelihood, effects, simulated cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from rich.progress import track
from scipy.special import ndtri

from samsvae.data.conditions import Conditions
from samsvae.data.contamination import Contamination
from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.estimators.trained import TrainedModel
from samsvae.estimators.unmeasured import Unmeasured
from samsvae.inference import simulation
from samsvae.inference.effects import LEVELS, ArmCells, Effect, average_effects
from samsvae.inference.iwelbo import predictive_iwelbo
from samsvae.inference.latent import Batches
from samsvae.ops.parallel import side_by_side
from samsvae.settings.arguments import Count, checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import EffectSettings, SimulationSettings

_PARTICLES_OF_SCREEN = 200
"""Of each condition, at most, where the mean over all of them is wanted."""


class Predictions:
    """What conditions do to cells, by a trained model."""

    def __init__(self, model: TrainedModel) -> None:
        self.model, self.module, self.metadata = model, model.module, model.metadata

    @checked
    def iwelbo(
        self, screen: Screen, *, n_particles: Count = 1000, seed: int = 0, progress: bool = True
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
        seed, progress
            Same seed, same numbers; show a progress bar.

        Returns
        -------
        By cell: iwelbo, and its Monte Carlo standard error mc_se, in nats. The standard error of
        the mean over cells is in `.attrs["mean_mc_se"]`: the cells share draws, so it is not the
        mean of theirs. In `.attrs["joint"]` is the bound for all cells together, in which the
        globals are scored too (eq. 6 and 7 as printed): nats in all, not per cell.

        Examples
        --------
        >>> table = model.iwelbo(screen.test, n_particles=10, progress=False)
        >>> list(table.columns), len(table) == len(screen.test)
        (['iwelbo', 'mc_se'], True)
        """
        loader = self.model.loader(screen)
        generator = self.model.generator(seed)
        result = predictive_iwelbo(
            self.module, loader, n_particles=n_particles, generator=generator, progress=progress
        )
        table = {"iwelbo": result.iwelbo, "mc_se": result.mc_se}
        frame = pd.DataFrame(table, index=loader.screen.cells)
        frame.attrs |= {"mean_mc_se": result.mean_mc_se, "joint": result.joint}
        return frame

    @checked
    @takes(EffectSettings)
    def effects(self, conditions: Conditions | None = None, **settings: Any) -> AnnData:
        """Return the average treatment effect of conditions on every gene, against control.

        ATE(d) = mean_k [E x | do(d), z_k, E_k, M_k] - [E x | do(0), z_k, E_k, M_k], z_k a basal
        state. Both arms share all draws, the noise of the counts included.

        Parameters
        ----------
        conditions
            Such as "KLF1", "KLF1+CEBPA" or ("KLF1", "CEBPA"), one or several, seen in training or
            not; by default all conditions of the training cells but control. "@" gives a dose:
            "drugA@0.5".
        **settings
            scale, relative_to ("typical gene"), library_size (1e4), n_particles (2500),
            n_count_draws, n_draws (100), basal ("prior"), batch, context, contamination (0),
            seed (0), progress; see
            `samsvae.settings.questions.EffectSettings`.

        Returns
        -------
        Conditions (as asked) x genes: `X` the ATE; layers "mc_se", its Monte Carlo standard
        error, "lower" and "upper", the 90 % posterior interval (the uncertainty of the effect,
        not the spread of cells), and "lower_50" and "upper_50", that of 50 %. `obs` holds each
        condition as it is stored (sorted), its number of training cells (0 for an unseen
        combination), and whether its effect is `estimable`: not confounded with batches; if it is
        confounded, there is no interval; on scale "lfc", `composition` is the log2 fold change of
        the typical gene, which effects are relative to. With features, `support` and `closest`, see
        `with_features`. `var["unexpressed"]` marks genes without a
        count in training: their effect is 0, without an interval.

        Raises
        ------
        InputError
            If a perturbation was never seen in training, the model has no such scale, or a
            contamination is given for another scale than "lfc".

        Examples
        --------
        >>> effects = model.effects(["G01", "G01+G02"], n_particles=20, progress=False)
        >>> effects.shape, list(effects.layers)
        ((2, 20), ['mc_se', 'lower', 'upper', 'lower_50', 'upper_50'])
        >>> list(effects.obs["n_train_cells"] > 0)  # the combination was never seen
        [True, False]
        """
        chosen = EffectSettings(**settings)
        scales = self.module.likelihood.scales
        scale = chosen.scale or scales[0]
        if scale not in scales:
            raise unknown(f"scale for a {self.module.likelihood.name} likelihood:", scale, scales)
        self.model.generator(chosen.seed)  # raises unless the model can answer
        names = self.metadata.labels(conditions)
        stored = [self.metadata.stored(name) for name in names]
        asked = stored
        if scale == "lfc":  # of perturbations that only features are known of, these tell more
            asked = list(map(self.metadata.measured_part, stored))
        received = self._received(asked, chosen.context)
        results = self._average_effects(asked, received, replace(chosen, scale=scale))
        estimable = np.array([self.metadata.is_estimable(name) for name in stored])
        unexpressed = self.metadata.unexpressed
        has_interval = estimable[:, None] & ~unexpressed
        intervals = np.array([result.intervals for result in results])
        ends = {
            f"{end}{'' if level == 0.9 else f'_{level:.0%}'.rstrip('%')}": np.where(
                has_interval, intervals[:, i, j], np.nan
            )
            for i, level in enumerate(LEVELS)
            for j, end in enumerate(("lower", "upper"))
        }
        mc_se = np.array([result.mc_se for result in results])
        ate = np.array([result.ate for result in results])
        if scale == "lfc":
            growth = np.array([result.growth for result in results])
            ends = _widened(ends, ate, growth**2 * self.metadata.discrepancy(asked, ate))
            more, variance = Unmeasured(self.metadata).effects(stored, chosen.relative_to)
            ate, ends = ate + more, {name: end + more for name, end in ends.items()}
            ends = _widened(ends, ate, np.where(unexpressed, 0, variance))
        return AnnData(
            np.where(unexpressed, 0, ate),
            obs=pd.DataFrame(
                {
                    "condition": stored,
                    "n_train_cells": [
                        self.metadata.n_cells(name, chosen.context) for name in stored
                    ],
                    "estimable": estimable,
                    "composition": [result.composition for result in results],
                    **Unmeasured(self.metadata).columns(stored),
                },
                index=pd.Index(names, dtype=str),
            ),
            var=pd.DataFrame(
                {"unexpressed": unexpressed}, index=list(self.metadata.registry.genes)
            ),
            layers={"mc_se": np.where(unexpressed, 0, mc_se), **ends},
            uns={
                "scale": scale,
                "relative_to": chosen.relative_to,
                "library_size": str(chosen.library_size),
                "basal": chosen.basal,
                **({} if chosen.context is None else {"context": chosen.context}),
                "contamination": chosen.contamination,
                "n_particles": chosen.n_particles,
            },
        )

    def _received(self, names: Sequence[str], context: str | None) -> sp.csr_matrix:
        """Return what conditions are in a context, `condition column`; None: in their mean."""
        rows = self.metadata.received(names)
        return self.model.encoding(rows, self.metadata.in_context(context, len(names)))

    def _average_effects(
        self, stored: Sequence[str], received: sp.csr_matrix, settings: EffectSettings
    ) -> list[Effect]:
        """Return the effects of conditions, in the batches that the settings name."""
        metadata, context = self.metadata, settings.context
        control_sizes = metadata.library_sizes(metadata.conditions[0])
        sizes = [metadata.library_sizes(name) for name in stored]
        batches = metadata.registry.batch_names
        batch = settings.batch if batches or settings.batch != "observed" else None
        basal = self.model.control_basal if settings.basal == "control" else None
        if basal is not None and context is not None:
            basal = basal.in_context(metadata.registry, metadata.is_of_context(context))
        foreign = self._contamination(settings) if settings.contamination else None
        if batch != "observed" or "observed" in batches:
            if batch is not None and context is not None:
                shares = metadata.shares_of(batch) * metadata.is_of_context(context)
                if not shares.any():
                    raise InputError(f"batch {batch!r} is not of context {context!r}")
            shares = metadata.within(metadata.shares_of(batch), context)
            drawn = Batches(shares, metadata.registry.design)
            cells = ArmCells(sizes, control_sizes, drawn, basal, batch is None, foreign)
            return average_effects(self.module, received, settings, cells)

        def alone(i: int) -> Effect:
            shares = metadata.within(metadata.observed_shares(stored[i]), context)
            drawn = Batches(shares, metadata.registry.design)
            cells = ArmCells([sizes[i]], control_sizes, drawn, basal, contamination=foreign)
            quiet = replace(settings, progress=False)
            return average_effects(self.module, received[i], quiet, cells)[0]

        # The control arm is in the batches of the condition, so each condition has its own.
        work = side_by_side(alone, range(len(stored)))
        return list(track(work, "effects", total=len(stored), disable=not settings.progress))

    def _contamination(self, settings: EffectSettings) -> Contamination:
        """Return the counts of other cells: of all training cells, by what the model says of them.

        Conditions whose effect is confounded with batches are left out.
        """
        if settings.scale != "lfc":
            raise InputError(
                f"contamination is of fold changes: expected scale 'lfc', not {settings.scale!r}"
            )
        metadata = self.metadata
        control, *others = metadata.conditions
        known = [name for name in others if metadata.is_estimable(name)]
        received = self._received(known, settings.context)
        n_particles = min(settings.n_particles, _PARTICLES_OF_SCREEN)
        asked = replace(settings, relative_to="library", contamination=0.0, n_draws=0)
        asked = replace(asked, n_particles=n_particles, progress=False)
        effects = self._average_effects(known, received, asked)
        counts = [metadata.library_sizes(name).sum() for name in (control, *known)]
        ratios = 2 ** np.array([np.zeros(len(metadata.registry.genes)), *(e.ate for e in effects)])
        return Contamination(settings.contamination, np.average(ratios, axis=0, weights=counts))

    @checked
    @takes(EffectSettings)
    def dose_response(
        self,
        perturbation: str,
        doses: Sequence[float],
        *,
        background: str | None = None,
        **settings: Any,
    ) -> AnnData:
        """Return the effect of a perturbation on every gene, dose by dose.

        All doses share their draws, so the curve is smoother than its Monte Carlo errors suggest.

        Parameters
        ----------
        perturbation, doses
            Its name; doses in the units of the screen, each at least 0.
        background
            A condition that the cells also receive, such as "drugB@2".
        **settings
            As in `effects`.

        Returns
        -------
        Doses (ascending) x genes, as `effects` returns them, with the doses in `obs["dose"]`.

        Raises
        ------
        InputError
            As in `effects`, or if a dose is not a number of at least 0.

        Examples
        --------
        >>> curve = model.dose_response("G01", [0, 0.5, 1], n_particles=20, progress=False)
        >>> list(curve.obs["dose"])
        [0.0, 0.5, 1.0]
        """
        registry = self.metadata.registry
        parser, names = registry.parser, registry.perturbations
        if perturbation not in names:
            raise unknown("perturbation", perturbation, names)
        fixed = {} if background is None else registry.read(background)
        if perturbation in fixed:
            raise InputError(f"the background {background!r} holds {perturbation!r} itself")
        ascending = sorted({dose for text in doses for dose in parser.doses(text)})
        received = [fixed | ({perturbation: dose} if dose else {}) for dose in ascending]
        adata = self.effects([parser.write(condition) for condition in received], **settings)
        adata.obs["dose"] = ascending
        return adata

    @checked
    @takes(SimulationSettings)
    def simulate(
        self, conditions: Conditions, *, cells: Screen | None = None, **settings: Any
    ) -> AnnData:
        """Draw counts of cells under conditions.

        Parameters
        ----------
        conditions
            As in `effects`.
        cells
            Instead of new cells: what these cells would have shown under each condition, at their
            own basal state (drawn from its posterior), library size and batch. All of them share
            one draw of masks and embeddings.
        **settings
            n_cells (1000 new cells per condition), library_size ("observed"), context, seed (0);
            see
            `samsvae.settings.questions.SimulationSettings`.

        Returns
        -------
        Cells x genes: `X` counts, sparse (real values, dense, for a Gaussian likelihood); `obs` the
        condition, library size and, with `cells`, the cell it is.

        Examples
        --------
        >>> cells = model.simulate(["G01", "control"], n_cells=5)
        >>> cells.shape, list(cells.obs["condition"].unique())
        ((10, 20), ['G01', 'control'])
        """
        chosen = SimulationSettings(**settings)
        names = self.metadata.labels(conditions)
        received = self._received(names, chosen.context)
        has_library_size = self.module.likelihood.has_library_size
        generator = self.model.generator(chosen.seed)
        rng = np.random.default_rng(chosen.seed)
        loader = None if cells is None else self.model.loader(cells)
        drawn, obs = [], []
        for name, row in zip(names, received, strict=True):
            if loader is not None:
                sizes = loader.screen.library_size
                drawn.append(simulation.given_cells(self.module, row, loader, generator))
            else:
                counts, sizes = self._new_cells(name, row, chosen, rng, generator)
                drawn.append(counts)
            table = pd.DataFrame({"condition": name}, index=pd.RangeIndex(drawn[-1].shape[0]))
            if has_library_size:
                table["library_size"] = sizes
            if loader is not None:
                table["cell"] = loader.screen.cells.to_numpy()
            obs.append(table.set_index(name + ":" + table.index.astype(str)))
        var = pd.DataFrame(index=list(self.metadata.registry.genes))
        stacked = sp.vstack(drawn, "csr") if sp.issparse(drawn[0]) else np.concatenate(drawn)
        return AnnData(stacked, obs=pd.concat(obs), var=var)

    def _new_cells(
        self,
        condition: str,
        received: sp.csr_matrix,
        settings: SimulationSettings,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[simulation.Cells, np.ndarray]:
        """Return counts of new cells, and their library sizes."""
        n, size = settings.n_cells, settings.library_size
        if size == "observed":
            sizes = rng.choice(self.metadata.library_sizes(self.metadata.stored(condition)), n)
        else:
            sizes = np.full(n, float(size))
        shares = self.metadata.within(self.metadata.batch_shares, settings.context)
        batches = np.zeros((n, 0))
        if len(shares):
            batches = self.metadata.registry.design[rng.choice(len(shares), n, p=shares)]
        panel = size != "observed"
        drawn = simulation.new_cells(self.module, received, sizes, batches, generator, panel=panel)
        return drawn, sizes

    @checked
    def cells(
        self, conditions: Iterable[str], *, n_cells: int, seed: int
    ) -> Iterator[simulation.Cells]:
        """Yield counts of simulated cells under each condition, at observed library sizes.

        The cells of a condition do not depend on the other conditions.
        """
        settings, names = SimulationSettings(n_cells=n_cells, seed=seed), list(conditions)
        generator = self.model.generator(seed)
        received = self.model.encoding(self.metadata.received(names))
        for name, row in zip(names, received, strict=True):
            rng = np.random.default_rng(seed)
            yield self._new_cells(name, row, settings, rng, generator.manual_seed(seed))[0]


def _widened(
    ends: dict[str, np.ndarray], ate: np.ndarray, variance: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the ends of intervals of ATEs, widened by a variance, `condition gene` each."""
    level = {"lower": 0.9, "upper": 0.9, "lower_50": 0.5, "upper_50": 0.5}
    return {
        name: ate
        + (1 if name.startswith("upper") else -1)
        * np.sqrt((end - ate) ** 2 + ndtri((1 + level[name]) / 2) ** 2 * variance)
        for name, end in ends.items()
    }
