"""Models of a screen, with names, hyperparameters and answers: the family of SAMS-VAE."""

from samsvae.estimators.base import Estimator
from samsvae.estimators.conditional_vae import ConditionalVAE
from samsvae.estimators.cpa_vae import CPAVAE
from samsvae.estimators.family import ESTIMATORS, estimator, load
from samsvae.estimators.sams_vae import SAMSVAE
from samsvae.estimators.svae_plus import SVAEPlus

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
