"""Simple predictors of effects, see `samsvae.benchmark.baselines`."""

from samsvae.benchmark.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    LinearPCA,
    MatchingMean,
    NoChange,
    PerturbationMean,
    RidgeRegression,
)
from samsvae.benchmark.feature_baselines import FeatureNeighbours, FeatureRidge
from samsvae.benchmark.means import Means

__all__ = [
    "BASELINES",
    "Additive",
    "Baseline",
    "ConditionMean",
    "FeatureNeighbours",
    "FeatureRidge",
    "LinearPCA",
    "MatchingMean",
    "Means",
    "NoChange",
    "PerturbationMean",
    "RidgeRegression",
]
