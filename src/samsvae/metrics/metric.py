"""What a metric is: statistics of each condition, and a score made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

Data = TypeVar("Data")
"""What predictions are held against: `Observed`, or plain arrays for interactions."""
Part: TypeAlias = Literal["effects", "interactions", "clouds", "intervals", "likelihood"]
"""What of a prediction a metric scores, see `samsvae.metrics.records.Prediction`."""


class Metric(NamedTuple, Generic[Data]):
    """A score of predictions, per condition and for all of them together.

    Both come from the same statistics of each condition, which is why conditions can be resampled
    without scoring them anew.
    """

    name: str
    statistics: Callable[[Any, Data], np.ndarray]
    """From what is predicted (effects: `condition gene`) to `condition statistic`; a condition with
    a NaN cannot be scored."""
    finish: Callable[[np.ndarray], np.ndarray]
    """From statistics, averaged over conditions or not, `... statistic`, to the score, `...`."""
    library_size: Literal["fixed", "observed"]
    """Which effects of a model it scores: at library size 1e4 or at observed ones."""
    best: float
    """The best there is. What predicts the data exactly reaches it; but for `de_overlap` and
    `de_auprc`, where a large effect of a noisy gene may be no significant one."""
    part: Part = "effects"


class Scored(NamedTuple):
    """One metric of one predictor."""

    metric: Metric[Any]
    statistics: np.ndarray
    """`condition statistic`."""

    def per_condition(self) -> np.ndarray:
        """Return the score of each condition, NaN where there is none."""
        unknown = np.isnan(self.statistics).any(1)
        return np.where(unknown, np.nan, self.metric.finish(self.statistics))

    def among(self, others: Scored) -> Scored:
        """Return those of the conditions alone that others can be scored on, too."""
        unknown = np.isnan(others.statistics).any(1)[:, None]
        return self._replace(statistics=np.where(unknown, np.nan, self.statistics))

    def all(self) -> np.ndarray:
        """Return the scores of each condition, and of all together: `condition + 1`."""
        return np.append(self.per_condition(), pooled(self.metric, self.statistics))


def per_condition(metric: Metric[Data], predicted: np.ndarray, observed: Data) -> np.ndarray:
    """Return the score of each condition, NaN where there is none.

    Parameters
    ----------
    metric
        Which.
    predicted
        `condition gene`: in the order of the observed ones.
    observed
        What they are held against.
    """
    return metric.finish(metric.statistics(predicted, observed))


def pooled(metric: Metric[Data], statistics: np.ndarray) -> float:
    """Return the score of all conditions together, from their mean statistics.

    Conditions that cannot be scored are left out; NaN where none can.

    Parameters
    ----------
    metric
        Whose statistics these are.
    statistics
        `condition statistic`.
    """
    rows = _scored(statistics)
    return float(metric.finish(rows.mean(0))) if len(rows) else float("nan")


def bootstrap(
    metric: Metric[Data],
    statistics: np.ndarray,
    *,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of the pooled score over conditions drawn with replacement.

    Conditions that cannot be scored are left out; NaN where fewer than two can. The same seed draws
    the same conditions: so intervals of differences can be had, too.

    Parameters
    ----------
    metric
        Whose statistics these are.
    statistics
        `condition statistic`.
    n_draws
        How often conditions are drawn anew.
    seed
        Of the draws.
    level
        Share of the draws between the two ends.
    """
    rows = _scored(statistics)
    n = len(rows)
    if n < 2:
        return float("nan"), float("nan")
    scores = metric.finish(_drawn(n, n_draws, seed) @ rows / n)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@lru_cache(maxsize=1)
def _drawn(n: int, n_draws: int, seed: int) -> np.ndarray:
    """Return how often each of n conditions is in each draw, `draw condition`.

    Kept: most metrics of most predictors score the same conditions.
    """
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_draws)
    return drawn.astype(float)  # a product of real numbers is the fast one


def _scored(statistics: np.ndarray) -> np.ndarray:
    """Return the conditions that can be scored."""
    return statistics[~np.isnan(statistics).any(1)]


def first(statistics: np.ndarray) -> np.ndarray:
    """Return the only statistic as the score."""
    return statistics[..., 0]
