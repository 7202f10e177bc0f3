"""What a predictor is, and what it predicts for the conditions of an evaluation task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.benchmark.metrics.effects import interaction
from samsvae.benchmark.metrics.observed import Intervals, Prediction
from samsvae.benchmark.metrics.populations import CellPopulations, PrincipalComponents
from samsvae.benchmark.tasks import EvaluationTask
from samsvae.data.conditions import Conditions
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen

_LAYERS = {0.5: ("lower_50", "upper_50"), 0.9: ("lower", "upper")}
"""By level, the layers that hold the ends of the intervals."""


class Predictor(Protocol):
    """Predicts what conditions do to cells: models and baselines alike.

    Settings are those of `samsvae.SAMSVAE`; a predictor ignores those that do not apply to it.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_trained(self) -> bool: ...

    @property
    def registry(self) -> NameRegistry: ...

    @property
    def fitted_on(self) -> pd.Index:
        """Names of the cells that it was fitted on, as far as it keeps them."""

    @property
    def training_conditions(self) -> tuple[str, ...]:
        """Conditions of the cells that it was fitted on, as they are stored."""

    def answers_for(self, condition: str) -> bool:
        """Whether it has a prediction for a condition."""

    def effects(self, conditions: Conditions | None = None, **settings: Any) -> AnnData:
        """Return effects; `uns["library_size"]`, where they depend on it."""

    def cells(
        self, conditions: Iterable[str], *, n_cells: int, seed: int
    ) -> Iterator[sp.csr_matrix | np.ndarray | None]:
        """Yield counts of at most so many cells under each condition, at observed library sizes.

        None: it predicts means alone. The same object twice: the same cells.
        """

    @property
    def has_likelihood(self) -> bool:
        """Whether it has `iwelbo`."""

    def iwelbo(
        self, screen: Screen, *, n_particles: int, seed: int, progress: bool
    ) -> pd.DataFrame: ...


class PredictedTables(NamedTuple):
    """Effects that a predictor gives for the conditions that it has a prediction for."""

    effects: dict[str, AnnData]
    """By library size: "fixed" (1e4) or "observed"; empty: it has a prediction for none."""

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        conditions: Sequence[str],
        *,
        n_draws: int,
        fixed_draws: int = 0,
        **settings: Any,
    ) -> PredictedTables:
        """Ask a predictor once at each library size, with settings of the models' `effects`.

        `n_draws` is for intervals at observed library sizes, `fixed_draws` for those at 1e4.
        """
        answered = [name for name in conditions if predictor.answers_for(name)]
        if not answered:
            return cls({})
        fixed = observed = predictor.effects(
            answered, library_size="observed", n_draws=n_draws, **settings
        )
        # On other scales effects do not depend on the library size.
        if settings["scale"] == "log" and "library_size" in observed.uns:
            fixed = predictor.effects(answered, n_draws=fixed_draws, **settings)
        return cls({"fixed": fixed, "observed": observed})

    def table(
        self, size: str, layer: str | None, conditions: Sequence[str], n_genes: int
    ) -> pd.DataFrame:
        """Return effects, or a layer, `condition gene`; NaN without a (estimable) prediction."""
        if not self.effects:
            return pd.DataFrame(np.full((len(conditions), n_genes), np.nan), list(conditions))
        adata = self.effects[size]
        values = adata.X if layer is None else adata.layers[layer]
        estimable = np.asarray(adata.obs.get("estimable", True), bool).reshape(-1, 1)
        frame = pd.DataFrame(
            np.where(estimable, np.asarray(values, float), np.nan), adata.obs_names
        )
        return frame.reindex(list(conditions))

    def on(self, task: EvaluationTask, predictor: Predictor) -> Prediction:
        """Return what is scored for the conditions of a task."""
        n_genes, conditions = len(task.screen.genes), list(task.conditions)
        observed = fixed = self.table("observed", None, task.all_conditions, n_genes)
        effects = dict.fromkeys(("observed", "fixed"), observed.loc[conditions].to_numpy())
        if self.effects and self.effects["fixed"] is not self.effects["observed"]:
            fixed = self.table("fixed", None, task.all_conditions, n_genes)
            effects["fixed"] = fixed.loc[conditions].to_numpy()  # else the same, scored once
        frames = {"fixed": fixed, "observed": observed}
        populations = None
        if task.components is not None:
            populations = predicted_populations(task.components, predictor, conditions)
        return Prediction(
            effects,
            {size: interaction(frame, task.combinations) for size, frame in frames.items()},
            self._intervals(effects["observed"], conditions),
            populations,
        )

    def _intervals(self, ate: np.ndarray, conditions: Sequence[str]) -> Intervals | None:
        """Return the intervals of conditions; None without a posterior."""
        ends = {}
        for level, names in _LAYERS.items():
            if self.effects and names[0] in self.effects["observed"].layers:
                low, high = (
                    self.table("observed", name, conditions, ate.shape[1]).to_numpy()
                    for name in names
                )
                if not np.isnan(low).all():
                    ends[level] = low, high
        return Intervals(ate, ends) if ends else None


def predicted_populations(
    components: PrincipalComponents, predictor: Predictor, conditions: Sequence[str]
) -> CellPopulations:
    """Return cells that a predictor expects under conditions, as points; None without any."""
    answered = [name for name in conditions if predictor.answers_for(name)]
    cells: dict[str, np.ndarray | None] = {}
    before = points = None
    n_cells, seed = components.n_cells, components.seed
    drawn = predictor.cells(answered, n_cells=n_cells, seed=seed) if answered else ()
    for name, counts in zip(answered, drawn, strict=True):
        if counts is not before:
            before, points = counts, components.project(counts)
        cells[name] = points
    return CellPopulations([cells.get(name) for name in conditions], components.bandwidth)


def likelihood_of(
    predictor: Predictor, cells: Screen, group: np.ndarray, **settings: Any
) -> tuple[np.ndarray | None, float]:
    """Return `Prediction.likelihood` of cells, each of a group, and the error of their mean.

    The error is the Monte Carlo standard error of the mean over cells, nats; NaN without any.
    """
    if not predictor.has_likelihood:
        return None, np.nan
    answered = np.array([predictor.answers_for(name) for name in cells.condition_names])
    is_answered, n_cells = answered[cells.condition], np.bincount(group).astype(float)
    total, mc_se = np.full(len(n_cells), np.nan), np.nan
    if is_answered.any():
        each = predictor.iwelbo(cells[is_answered], **settings)
        groups = np.unique(group[is_answered])
        total[groups] = np.bincount(group[is_answered], each["iwelbo"])[groups]
        mc_se = float(each.attrs["mean_mc_se"])
    return np.stack([total, n_cells], 1), mc_se
