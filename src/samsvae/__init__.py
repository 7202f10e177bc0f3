"""Sparse Additive Mechanism Shift VAE and its siblings, for Perturb-seq screens."""

from samsvae import _threads  # noqa: F401  before torch
from samsvae import baselines, datasets, export
from samsvae._version import __version__
from samsvae.data import splits
from samsvae.data.h5ad import read_h5ad
from samsvae.data.screen import Screen
from samsvae.errors import InputError, NonFiniteError, TrainingInterrupted
from samsvae.estimators import CPAVAE, SAMSVAE, ConditionalVAE, SVAEPlus, load
from samsvae.evaluation.differential_expression import differential_expression
from samsvae.evaluation.metrics import ate_pearson
from samsvae.evaluation.pathways import pathway_score
from samsvae.evaluation.recovery import recovery
from samsvae.evaluation.stability import stability
from samsvae.scoring.evaluate import evaluate
from samsvae.scoring.predictive_check import predictive_check
from samsvae.train.settings import TrainSettings

__all__ = [
    "CPAVAE",
    "SAMSVAE",
    "ConditionalVAE",
    "InputError",
    "NonFiniteError",
    "SVAEPlus",
    "Screen",
    "TrainSettings",
    "TrainingInterrupted",
    "__version__",
    "ate_pearson",
    "baselines",
    "datasets",
    "differential_expression",
    "evaluate",
    "export",
    "load",
    "pathway_score",
    "predictive_check",
    "read_h5ad",
    "recovery",
    "splits",
    "stability",
]
