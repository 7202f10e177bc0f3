"""The table of evaluation: a row per predictor, a column per score."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

_TOLD = {
    "test": "Test cells of conditions seen in training",
    "unseen": "Test cells of conditions never seen in training",
    "valid": "Validation cells",
    "train": "Training cells",
}


MEANINGS = {
    "iwelbo": "How likely are the held-out cells? Nats per cell; models only.",
    "ate_pearson": "Do predicted effects point the way the data do, over conditions and genes?",
    "ate_pearson_observed_size": "The same, at the cells' own library sizes.",
    "ate_r2": "Are effects of the right size, too? 0: no better than no change.",
    "pearson_from_perturbation_mean": "Is the direction right beyond what all perturbations share?",
    "perturbation_discrimination": "Is each condition told from the others? 1/2: chance.",
    "rmse": "How far are effects from those observed? On few cells no change comes close.",
    "e_distance": "Are simulated cells like real ones, not in their means alone?",
    "coverage_90": "Which share of the observed effects lies in the intervals of 90 %?",
    "coverage_50": "Which share of the observed effects lies in the intervals of 50 %?",
    "interaction_pearson": "What do combinations do beyond the sum of their parts? A sum: 0.",
}
"""Which question each score answers."""


class Cell(NamedTuple):
    """One score."""

    value: float
    sd: float
    lower: float
    upper: float
    is_best: bool


class Board(NamedTuple):
    """The scores of one split."""

    title: str
    metrics: list[str]
    aims: list[str]
    """Of each metric: what is best."""
    rows: list[tuple[str, str, list[Cell | None]]]
    """Predictor, kind, its scores."""


def scoreboards(scores: pd.DataFrame | None) -> list[Board]:
    """Return a table per split, models first, then baselines, then the duplicate."""
    if scores is None:
        return []
    return [
        _board(_TOLD.get(str(split), f"{split} cells"), rows)
        for split, rows in scores.groupby("split", sort=False)
    ]


def _board(title: str, rows: pd.DataFrame) -> Board:
    metrics = list(dict.fromkeys(rows["metric"]))
    best_of = rows.drop_duplicates("metric").set_index("metric")["best"]
    rows = rows.assign(distance=_distance(rows))
    # The ceiling is no competitor: a duplicate is data, not a prediction.
    competing = rows[(rows["kind"] != "duplicate") & rows["value"].notna()]
    nearest = competing.groupby("metric")["distance"].min()
    found = []
    order = {"model": 0, "baseline": 1, "duplicate": 2}
    ordered = rows.sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable")
    for (predictor, kind), own in ordered.groupby(["predictor", "kind"], sort=False):
        of_metric: dict[str, Any] = {str(row.metric): row for row in own.itertuples()}
        cells: list[Cell | None] = []
        for metric in metrics:
            row = of_metric.get(metric)
            if row is None or np.isnan(row.value):
                cells.append(None)
                continue
            wins = kind != "duplicate" and row.distance <= nearest[metric]
            cells.append(Cell(row.value, row.sd, row.lower, row.upper, bool(wins)))
        found.append((str(predictor), str(kind), cells))
    aims = [_aim(float(best_of[metric])) for metric in metrics]
    return Board(title, metrics, aims, found)


def _distance(rows: pd.DataFrame) -> np.ndarray:
    """Return how far scores are from the best there is; of what has no bound, how low they are."""
    value, best = rows["value"].to_numpy(float), rows["best"].to_numpy(float)
    return np.where(np.isinf(best), -value * np.sign(best), np.abs(value - best))


def _aim(best: float) -> str:
    if np.isinf(best):
        return "higher is better"
    return f"{best:g} is best"
