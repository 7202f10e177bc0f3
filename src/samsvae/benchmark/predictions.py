"""What predictors say of the conditions they are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.benchmark.heldout import Subject
from samsvae.benchmark.metrics.effects import interaction
from samsvae.benchmark.metrics.records import Intervals, Prediction
from samsvae.benchmark.predictor import Predictor
from samsvae.data.screen import Screen

_ENDS = {0.5: ("lower_50", "upper_50"), 0.9: ("lower", "upper")}
"""By level, the layers that hold the ends of the intervals."""


class Answers(NamedTuple):
    """Effects of conditions as a predictor gives them, of those that it answers for."""

    effects: dict[str, AnnData]
    """By library size: "fixed" (1e4) or "observed"; empty: it answers for none."""

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        conditions: Sequence[str],
        *,
        n_draws: int,
        fixed_draws: int = 0,
        **settings: Any,
    ) -> Answers:
        """Ask a predictor, once at each library size.

        Parameters
        ----------
        predictor
            A trained model or a baseline.
        conditions
            Which.
        n_draws
            Of the intervals at observed library sizes.
        fixed_draws
            Of those at 1e4.
        **settings
            Of the models' `effects`.
        """
        known = [name for name in conditions if predictor.answers_for(name)]
        if not known:
            return cls({})
        fixed = observed = predictor.effects(
            known, library_size="observed", n_draws=n_draws, **settings
        )
        if settings["scale"] == "log" and "library_size" in observed.uns:  # others do not depend
            fixed = predictor.effects(known, n_draws=fixed_draws, **settings)
        return cls({"fixed": fixed, "observed": observed})

    def table(
        self, size: str, layer: str | None, conditions: Sequence[str], n_genes: int
    ) -> pd.DataFrame:
        """Return effects, or a layer of them, `condition gene`.

        NaN where there is no answer, or one that is not estimable.
        """
        if not self.effects:
            return pd.DataFrame(np.full((len(conditions), n_genes), np.nan), list(conditions))
        adata = self.effects[size]
        values = adata.X if layer is None else adata.layers[layer]
        known = np.asarray(adata.obs.get("estimable", True), bool).reshape(-1, 1)
        frame = pd.DataFrame(np.where(known, np.asarray(values, float), np.nan), adata.obs_names)
        return frame.reindex(list(conditions))

    def on(self, subject: Subject, predictor: Predictor) -> Prediction:
        """Return what is scored of a subject's conditions."""
        n_genes, conditions = len(subject.screen.genes), list(subject.conditions)
        observed = self.table("observed", None, subject.asked, n_genes)
        fixed = observed
        if self.effects and self.effects["fixed"] is not self.effects["observed"]:
            fixed = self.table("fixed", None, subject.asked, n_genes)
        effects = {"observed": observed.loc[conditions].to_numpy()}
        effects["fixed"] = effects["observed"]  # the same array, which is then scored once
        if fixed is not observed:
            effects["fixed"] = fixed.loc[conditions].to_numpy()
        frames = {"fixed": fixed, "observed": observed}
        space = subject.space
        return Prediction(
            effects,
            {size: interaction(frame, subject.combinations) for size, frame in frames.items()},
            self._intervals(effects["observed"], conditions),
            None if space is None else space.predicted(predictor, conditions),
        )

    def _intervals(self, ate: np.ndarray, conditions: Sequence[str]) -> Intervals | None:
        """Return the intervals of conditions; None without a posterior."""
        ends = {}
        for level, names in _ENDS.items():
            if self.effects and names[0] in self.effects["observed"].layers:
                low, high = (
                    self.table("observed", name, conditions, ate.shape[1]).to_numpy()
                    for name in names
                )
                if not np.isnan(low).all():
                    ends[level] = low, high
        return Intervals(ate, ends) if ends else None


class Likelihood(NamedTuple):
    """How likely the cells of conditions are to a predictor."""

    sums: np.ndarray | None
    """`condition 2`: sum of the IWELBO over each condition's cells, nats, and how many these are;
    NaN: there is no answer. Control may come last. None: the predictor has no likelihood."""
    mc_se: float = float("nan")
    """Nats: Monte Carlo standard error of the mean over cells."""

    @classmethod
    def of(
        cls, predictor: Predictor, cells: Screen, group: np.ndarray, **settings: Any
    ) -> Likelihood:
        """Ask a predictor for cells, each of a group."""
        if not predictor.has_likelihood:
            return cls(None)
        answered = np.array([predictor.answers_for(name) for name in cells.condition_names])
        known = answered[cells.condition]
        n_cells = np.bincount(group).astype(float)
        total = np.full(len(n_cells), np.nan)
        if not known.any():
            return cls(np.stack([total, n_cells], 1))
        each = predictor.iwelbo(cells[known], **settings)
        groups = np.unique(group[known])
        total[groups] = np.bincount(group[known], each["iwelbo"])[groups]
        return cls(np.stack([total, n_cells], 1), float(each.attrs["mean_mc_se"]))
