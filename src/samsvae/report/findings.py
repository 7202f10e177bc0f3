"""What a report is made of: tables, and why those that are missing are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a report shows of a trained model. A table that is not there is None."""

    name: str
    """Of the run."""
    model: str
    """Its name in tables of scores."""
    card: Mapping[str, Any]
    """By what it says: version, seed, settings, time, machine."""
    settings: Mapping[str, Any]
    history: pd.DataFrame
    """As `model.history`."""
    overview: Mapping[str, Any] = field(default_factory=dict)
    """Of the cells: n_cells, n_control_cells, n_genes, n_perturbations, n_combinations,
    library_size (quantiles 0, 25, 50, 75, 100 %; NaN for real values, which have none)."""
    cells: pd.DataFrame | None = None
    """By condition, control first: cells in each split, in `total`; `library_size` (median),
    `estimable` (or not to be told from batches), `is_trained`."""
    sgrnas: pd.DataFrame | None = None
    """As `samsvae.sgrnas` returns them."""
    responders: pd.DataFrame | None = None
    """The `rates` of `model.responders`."""
    batches: pd.DataFrame | None = None
    """By batch: control, perturbed (cells), n_conditions."""
    unexpressed: tuple[str, ...] = ()
    """Genes without a count in training."""
    scores: pd.DataFrame | None = None
    """Of all conditions together: predictor, kind ("model", "baseline" or "duplicate"), split,
    metric, value, lower, upper, sd (over seeds), best (the best there is)."""
    fits: pd.DataFrame | None = None
    """Of a comparison, by model and seed: model, seed, step (of the model that was kept),
    validation_elbo, dimensions_in_use, and scores of test cells by their names."""
    stability: pd.DataFrame | None = None
    """As `samsvae.stability`; of a comparison, of each model, with its name in `model`."""
    effects: pd.DataFrame | None = None
    """As `samsvae.discoveries`; without `lfsr` and `q_value` where there was nothing to learn
    error rates from."""
    scale: str = "log"
    """Of the effects."""
    alike: Mapping[str, list[tuple[str, float]]] = field(default_factory=dict)
    """By condition: those with the most similar effects, and their correlation."""
    combinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By combination of the explorer: its parts."""
    mechanisms: pd.DataFrame | None = None
    """As `model.mechanisms`."""
    inclusion: pd.DataFrame | None = None
    """As `model.inclusion`."""
    notes: tuple[str, ...] = ()
    """What the model and its tables warned of."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """By section: why it is empty, and what to do."""
    tables: tuple[str, ...] = ()
    """Paths of the complete tables, seen from the report."""

    @property
    def has_rates(self) -> bool:
        """Whether effects come with error rates."""
        return self.effects is not None and "lfsr" in self.effects
