"""Simple predictors of effects, see `samsvae.evaluation.baselines`."""

from samsvae.evaluation.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    LinearPCA,
    MatchingMean,
    NoChange,
    PerturbationMean,
)
from samsvae.evaluation.means import Means

__all__ = [
    "BASELINES",
    "Additive",
    "Baseline",
    "ConditionMean",
    "LinearPCA",
    "MatchingMean",
    "Means",
    "NoChange",
    "PerturbationMean",
]
