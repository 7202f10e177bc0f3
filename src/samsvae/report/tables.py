"""The tables of a report, and the table of evaluation: a row per predictor, a column per score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ReportTables:
    """All that a report shows of a trained model. A table that is missing is None."""

    name: str
    """Name of the run."""
    model: str
    """Name of the model in tables of scores."""
    card: Mapping[str, Any]
    """The model card: version, seed, training time, machine, by name."""
    settings: Mapping[str, Any]
    """Settings of the run."""
    history: pd.DataFrame
    """As `model.history`."""
    overview: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the screen: n_cells, n_control_cells, n_genes, n_perturbations, n_combinations,
    library_size (quantiles 0, 25, 50, 75, 100 %; NaN for real values, which have none)."""
    cells: pd.DataFrame | None = None
    """By condition, control first: cells in each split and in `total`; `library_size` (median),
    `estimable` (False: confounded with batches), `is_trained`."""
    sgrnas: pd.DataFrame | None = None
    """As `samsvae.sgrnas` returns them."""
    responders: pd.DataFrame | None = None
    """The `rates` of `model.responders`."""
    batches: pd.DataFrame | None = None
    """By batch: control, perturbed (cells), n_conditions."""
    unexpressed: tuple[str, ...] = ()
    """Genes without a count in training."""
    scores: pd.DataFrame | None = None
    """Scores over all conditions: predictor, kind ("model", "baseline" or "replicate"), split,
    metric, value, lower, upper, sd (over seeds), best (the best possible value)."""
    fits: pd.DataFrame | None = None
    """Of a comparison, by model and seed: model, seed, step (of the model that was kept),
    validation_elbo, dimensions_in_use, and the scores on test cells by metric."""
    stability: pd.DataFrame | None = None
    """As `samsvae.stability`; of a comparison, with the name of each model in `model`."""
    effects: pd.DataFrame | None = None
    """As `samsvae.discoveries`; without `lfsr` and `q_value` if no error rates could be learned."""
    scale: str = "log"
    """Scale of the effects."""
    similar: Mapping[str, list[tuple[str, float]]] = field(default_factory=dict)
    """By condition: those with the most similar effects, and the correlations."""
    combinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By combination: its parts."""
    mechanisms: pd.DataFrame | None = None
    """As `model.mechanisms`."""
    inclusion: pd.DataFrame | None = None
    """As `model.inclusion`."""
    notes: tuple[str, ...] = ()
    """Warnings of the model and its tables."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """By section: why it is empty, and what to do."""
    paths: tuple[str, ...] = ()
    """Paths of the complete tables, relative to the report."""

    @property
    def has_error_rates(self) -> bool:
        """Whether effects have error rates."""
        return self.effects is not None and "lfsr" in self.effects


_TITLES = {
    "test": "Test cells of conditions seen in training",
    "unseen": "Test cells of conditions never seen in training",
    "valid": "Validation cells",
    "train": "Training cells",
}
MEANINGS = {
    "iwelbo": "How likely are the held-out cells? Nats per cell; models only.",
    "ate_pearson": "Do predicted effects correlate with observed ones, over conditions and genes?",
    "ate_pearson_observed_size": "The same, at the cells' own library sizes.",
    "ate_r2": "Do effects also have the right size? 0: no better than predicting no change.",
    "pearson_from_perturbation_mean": "Is the direction right, given what all perturbations share?",
    "perturbation_discrimination": "Can each condition be told apart from others? 1/2: chance.",
    "rmse": "How far are effects from observed ones? With few cells, no change is hard to beat.",
    "e_distance": "Are simulated cells distributed like real ones, not only in their means?",
    "coverage_90": "Which share of the observed effects lies within the 90 % intervals?",
    "coverage_50": "Which share of the observed effects lies within the 50 % intervals?",
    "interaction_pearson": "What do combinations do beyond the sum of their parts? The sum has 0.",
}
"""The question that each score answers."""


class Score(NamedTuple):
    """One score of one predictor."""

    value: float
    sd: float
    lower: float
    upper: float
    is_best: bool


class Scoreboard(NamedTuple):
    """The scores on one split."""

    title: str
    metrics: list[str]
    aims: list[str]
    """For each metric, which value is best."""
    rows: list[tuple[str, str, list[Score | None]]]
    """Predictor, kind, its scores."""


def scoreboards(scores: pd.DataFrame | None) -> list[Scoreboard]:
    """Return a table per split, models first, then baselines, then the technical replicate."""
    boards: list[Scoreboard] = []
    if scores is None:
        return boards
    value, aim = scores["value"].to_numpy(float), scores["best"].to_numpy(float)
    # Of scores without a best possible value, how low they are.
    distance = np.where(np.isinf(aim), -value * np.sign(aim), np.abs(value - aim))
    order = {"model": 0, "baseline": 1, "replicate": 2}
    scores = scores.assign(distance=distance)
    for split, rows in scores.groupby("split", sort=False):
        best = rows.drop_duplicates("metric").set_index("metric")["best"]
        aims = ["higher is better" if np.isinf(b) else f"{b:g} is best" for b in best.astype(float)]
        # A technical replicate is data, not a prediction: it does not compete.
        is_competing = rows["kind"] != "replicate"
        nearest = rows[is_competing & rows["value"].notna()].groupby("metric")["distance"].min()
        is_best = is_competing & (rows["distance"] <= rows["metric"].map(nearest))
        rows = rows.assign(is_best=is_best)
        rows = rows.sort_values("kind", key=lambda kind: kind.map(order), kind="stable")
        predictors = []
        for (predictor, kind), own in rows.groupby(["predictor", "kind"], sort=False):
            columns = own.dropna(subset="value")[["metric", *Score._fields]]
            by_metric = {name: Score(*values) for name, *values in columns.itertuples(index=False)}
            of_metrics = [by_metric.get(metric) for metric in best.index]
            predictors.append((str(predictor), str(kind), of_metrics))
        title = _TITLES.get(str(split), f"{split} cells")
        boards.append(Scoreboard(title, list(best.index), aims, predictors))
    return boards
