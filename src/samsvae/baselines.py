"""Simple predictors of effects, see `samsvae.benchmark.baselines`."""

from samsvae.benchmark.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    LinearPCA,
    MatchingMean,
    Means,
    NoChange,
    PerturbationMean,
)

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
