"""What predictors say of the conditions they are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.baselines import Baseline
from samsvae.data.vocabulary import Vocabulary
from samsvae.errors import InputError
from samsvae.estimator import Estimator
from samsvae.evaluation.effect_metrics import (
    INTERACTION_METRICS,
    METRICS,
    Metric,
    first,
    interaction,
)
from samsvae.evaluation.intervals import coverage
from samsvae.scoring.clouds import Clouds
from samsvae.scoring.subject import Observation, Subject

Predictor: TypeAlias = Estimator | Baseline


def _shares(shares: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return shares of genes as statistics of their conditions."""
    return shares[:, None]


COVERAGE: dict[float, Metric[np.ndarray]] = {
    level: Metric(f"coverage_{level:.0%}".rstrip("%"), _shares, first, "observed", best=level)
    for level in (0.5, 0.9)
}
"""By level of the intervals, what tells how many observed effects lie within."""
_ENDS = {0.5: ("lower_50", "upper_50"), 0.9: ("lower", "upper")}


class Prediction(NamedTuple):
    """Effects of a subject's conditions; NaN where a predictor has none."""

    effects: dict[str, np.ndarray]
    """`condition gene`: by library size, "fixed" (1e4) or "observed"."""
    interactions: dict[str, np.ndarray]
    """`combination gene`: alike."""
    intervals: dict[float, tuple[np.ndarray, np.ndarray]]
    """`condition gene`: by level, ends of the intervals; none without a posterior."""
    clouds: Clouds
    """Of each condition, where distributions are compared."""

    @classmethod
    def of_cells(cls, seen: Observation) -> Prediction:
        """Return what cells show as a prediction of others."""
        return cls(
            dict.fromkeys(("fixed", "observed"), seen.observed.effect),
            dict.fromkeys(("fixed", "observed"), seen.interaction),
            {},
            seen.clouds,
        )


def predicted(predictor: Predictor, subject: Subject, **settings: Any) -> Prediction:
    """Ask a predictor for a subject's conditions.

    Parameters
    ----------
    predictor
        A trained model or a baseline.
    subject
        Whose conditions, and the parts of its combinations.
    **settings
        Of the models' `effects`.
    """
    if isinstance(predictor, Baseline):
        fixed = observed = answered(predictor, subject.asked, scale=settings["scale"])
    else:
        fixed = observed = answered(predictor, subject.asked, library_size="observed", **settings)
        if settings["scale"] == "log":  # the other scales do not depend on the library size
            fixed = answered(predictor, subject.asked, **settings | {"n_draws": 0})
    tables = {"fixed": fixed, "observed": observed}
    frames = {size: pd.DataFrame(layers["ate"], subject.asked) for size, layers in tables.items()}
    conditions, space = list(subject.conditions), subject.space
    intervals = {}
    for level, (lower, upper) in _ENDS.items():
        if lower in observed:
            ends = (pd.DataFrame(observed[end], subject.asked) for end in (lower, upper))
            low, high = (end.loc[conditions].to_numpy() for end in ends)
            if not np.isnan(low).all():
                intervals[level] = low, high
    return Prediction(
        {size: frame.loc[conditions].to_numpy() for size, frame in frames.items()},
        {size: interaction(frame, subject.combinations) for size, frame in frames.items()},
        intervals,
        [space.predicted(predictor, name) if space else None for name in conditions],
    )


def answered(predictor: Predictor, names: Sequence[str], **settings: Any) -> dict[str, np.ndarray]:
    """Return effects and their layers, `condition gene`, with NaN for conditions it refuses.

    Raises
    ------
    InputError
        If it refuses even the control condition: then it is the settings that are wrong.
    """
    if isinstance(predictor, Estimator):
        settings = {"progress": False, **settings}
    control = vocabulary_of(predictor).notation.control
    try:
        return _layers(predictor.effects(list(names), **settings))
    except InputError:
        empty = _layers(predictor.effects([control], **settings))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in empty}
    for name in names:
        try:
            layers = _layers(predictor.effects([name], **settings))
        except InputError:
            layers = {key: np.full_like(values, np.nan) for key, values in empty.items()}
        for key, values in layers.items():
            rows[key].append(values[0])
    return {key: np.array(values) for key, values in rows.items()}


def vocabulary_of(predictor: Predictor) -> Vocabulary:
    """Return the names that a predictor knows."""
    owner = predictor.screen if isinstance(predictor, Baseline) else predictor.facts
    return owner.vocabulary


def _layers(effects: AnnData) -> dict[str, np.ndarray]:
    return {"ate": np.asarray(effects.X, float)} | {
        name: np.asarray(values, float) for name, values in effects.layers.items()
    }


def statistics(
    prediction: Prediction, seen: Observation, subject: Subject
) -> dict[str, tuple[Metric[Any], np.ndarray]]:
    """Return, by metric, the metric and its statistics of each condition, `condition statistic`.

    A condition that is not predicted, or is no combination where only these are scored, is NaN.
    """
    found: dict[str, tuple[Metric[Any], np.ndarray]] = {}
    for metric in METRICS:
        effects = prediction.effects[metric.library_size]
        found[metric.name] = metric, _where_known(metric, effects, seen.observed)
    rows = [subject.conditions.index(name) for name in subject.combinations]
    for beyond in INTERACTION_METRICS if rows else ():
        own = beyond.statistics(prediction.interactions[beyond.library_size], seen.interaction)
        whole = np.full((len(subject.conditions), own.shape[1]), np.nan)
        whole[rows] = own
        found[beyond.name] = beyond, whole
    for cloud in subject.cloud_metrics:
        found[cloud.name] = cloud, cloud.statistics(prediction.clouds, seen.clouds)
    for level, ends in prediction.intervals.items():
        share = coverage(*ends, prediction.effects["observed"], seen.observed, level)
        found[COVERAGE[level].name] = COVERAGE[level], _shares(share, share)
    return found


def _where_known(metric: Metric[Any], effects: np.ndarray, observed: Any) -> np.ndarray:
    """Return statistics of the conditions that are predicted and observed, NaN of the others.

    Those without a prediction are left out before they are ranked among the others.
    """
    known = ~np.isnan(effects).any(1) & ~np.isnan(observed.effect).any(1)
    if known.all():
        return metric.statistics(effects, observed)
    if not known.any():
        return np.full_like(metric.statistics(np.zeros_like(effects), observed), np.nan)
    own = metric.statistics(effects[known], observed.among(known))
    whole = np.full((len(effects), own.shape[1]), np.nan)
    whole[known] = own
    return whole
