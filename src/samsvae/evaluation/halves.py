"""A technical duplicate: halves of the cells that predict each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from rich.progress import track

from samsvae.evaluation.subject import Subject
from samsvae.inference.parallel import side_by_side
from samsvae.metrics.metric import Scored
from samsvae.metrics.records import Prediction
from samsvae.metrics.registry import scored

DUPLICATE = "duplicate"
"""Its name in tables."""
MEAN = "(perturbation mean)"
"""The bottom of the dynamic range, whether or not it is asked for."""


class Halved(NamedTuple):
    """One metric of one predictor over halvings."""

    scores: Scored
    """Mean statistics."""
    shares: np.ndarray
    """Dynamic range, `condition + 1`, all together last."""


def halved(
    predictions: Mapping[str, Prediction],
    subject: Subject,
    n_halvings: int,
    *,
    seed: int,
    progress: bool,
) -> dict[tuple[str, str], Halved]:
    """Score predictors and a duplicate on halves; return by predictor and metric."""
    found: dict[tuple[str, str], list[Scored]] = {}
    rng = np.random.default_rng(seed)
    for _ in track(range(n_halvings), f"{subject.label}: halves", disable=not progress):
        first, second = subject.halves(rng)
        half = subject.seen(second)
        asked = {**predictions, DUPLICATE: subject.repeated(first)}
        answers = side_by_side(partial(scored, seen=half), asked.values())
        for name, of_half in zip(asked, answers, strict=True):
            for metric, score in of_half.items():
                found.setdefault((name, metric), []).append(score)
    over_halvings = {}
    for (name, metric), scores in found.items():
        if (DUPLICATE, metric) not in found:  # coverage: a duplicate has no intervals
            continue
        ours, top, bottom = (
            np.array([one.among(of).all() for one, of in zip(theirs, scores, strict=True)])
            for theirs in (scores, found[DUPLICATE, metric], found[MEAN, metric])
        )
        span, best = top - bottom, scores[0].metric.best
        better = np.abs((bottom + span).mean(0) - best) < np.abs(bottom.mean(0) - best)
        clear = better & (np.abs(span.mean(0)) > 2 * span.std(0, ddof=min(1, n_halvings - 1)))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = (ours - bottom).mean(0) / span.mean(0)
        mean = Scored(scores[0].metric, np.mean([one.statistics for one in scores], 0))
        over_halvings[name, metric] = Halved(mean, np.where(clear, shares, np.nan))
    return over_halvings
