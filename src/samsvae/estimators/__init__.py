"""Models of a screen, with names, hyperparameters and answers: the family of SAMS-VAE."""

from samsvae.estimators.base import Estimator
from samsvae.estimators.models import (
    CPAVAE,
    ESTIMATORS,
    SAMSVAE,
    ConditionalVAE,
    SVAEPlus,
    estimator,
    load,
)

__all__ = [
    "CPAVAE",
    "ESTIMATORS",
    "SAMSVAE",
    "ConditionalVAE",
    "Estimator",
    "SVAEPlus",
    "estimator",
    "load",
]
