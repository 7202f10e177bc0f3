"""What predictors say of the conditions they are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.errors import InputError
from samsvae.evaluation.predictor import Predictor
from samsvae.evaluation.subject import Subject
from samsvae.metrics.interactions import interaction
from samsvae.metrics.records import Clouds, Intervals, Prediction

_ENDS = {0.5: ("lower_50", "upper_50"), 0.9: ("lower", "upper")}
"""By level, the layers that hold the ends of the intervals."""


class Answered(NamedTuple):
    """Effects as a predictor gives them."""

    layers: dict[str, np.ndarray]
    """`condition gene`: "ate" and what else there is; NaN for conditions that it refuses."""
    depends_on_library_size: bool


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
    fixed = observed = answered(predictor, subject.asked, library_size="observed", **settings)
    if settings["scale"] == "log" and observed.depends_on_library_size:  # other scales do not
        fixed = answered(predictor, subject.asked, **settings | {"n_draws": 0})
    tables = {"fixed": fixed.layers, "observed": observed.layers}
    frames = {size: pd.DataFrame(layers["ate"], subject.asked) for size, layers in tables.items()}
    conditions, space = list(subject.conditions), subject.space
    effects = {size: frame.loc[conditions].to_numpy() for size, frame in frames.items()}
    return Prediction(
        effects,
        {size: interaction(frame, subject.combinations) for size, frame in frames.items()},
        _intervals(effects["observed"], observed.layers, subject),
        None
        if space is None
        else Clouds([space.predicted(predictor, name) for name in conditions], space.kernel),
    )


def _intervals(
    ate: np.ndarray, layers: dict[str, np.ndarray], subject: Subject
) -> Intervals | None:
    """Return the intervals of the conditions; None without a posterior."""
    ends = {}
    for level, names in _ENDS.items():
        if names[0] in layers:
            frames = (pd.DataFrame(layers[name], subject.asked) for name in names)
            low, high = (frame.loc[list(subject.conditions)].to_numpy() for frame in frames)
            if not np.isnan(low).all():
                ends[level] = low, high
    return Intervals(ate, ends) if ends else None


def answered(predictor: Predictor, names: Sequence[str], **settings: Any) -> Answered:
    """Return effects and their layers, with NaN for conditions that the predictor refuses.

    Raises
    ------
    InputError
        If it refuses even the control condition: then it is the settings that are wrong.
    """
    settings = {"progress": False, **settings}
    try:
        effects = predictor.effects(list(names), **settings)
        return Answered(_layers(effects), "library_size" in effects.uns)
    except InputError:
        control = predictor.effects([predictor.vocabulary.notation.control], **settings)
    empty = _layers(control)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in empty}
    for name in names:
        try:
            layers = _layers(predictor.effects([name], **settings))
        except InputError:
            layers = {key: np.full_like(values, np.nan) for key, values in empty.items()}
        for key, values in layers.items():
            rows[key].append(values[0])
    whole = {key: np.array(values) for key, values in rows.items()}
    return Answered(whole, "library_size" in control.uns)


def _layers(effects: AnnData) -> dict[str, np.ndarray]:
    """Return effects and their layers; NaN for conditions that are not identified."""
    layers = {"ate": np.asarray(effects.X, float)} | {
        name: np.asarray(values, float) for name, values in effects.layers.items()
    }
    known = np.asarray(effects.obs.get("identified", True), bool).reshape(-1, 1)
    return {name: np.where(known, values, np.nan) for name, values in layers.items()}
