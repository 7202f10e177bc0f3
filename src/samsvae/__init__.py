"""Sparse Additive Mechanism Shift VAE and its siblings, for Perturb-seq screens."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samsvae import _threads  # noqa: F401  before torch
from samsvae._version import __version__
from samsvae.errors import InputError, NonFiniteError, TrainingInterrupted

if TYPE_CHECKING:
    from samsvae import baselines, datasets, export, features, plotting
    from samsvae.data import splits
    from samsvae.data.assign_sgrnas import assign_sgrnas
    from samsvae.data.counts import counts_from_normalised
    from samsvae.data.screen import read_h5ad
    from samsvae.data.screen import Screen
    from samsvae.estimators import CPAVAE, SAMSVAE, ConditionalVAE, SVAEPlus, load
    from samsvae.benchmark.ate_pearson import ate_pearson, predictive_check
    from samsvae.data.cautions import library_sizes
    from samsvae.data.fold_changes import differential_expression
    from samsvae.analysis.discoveries import (
        control_calibration,
        discoveries,
        regulators,
    )
    from samsvae.analysis.effect_posterior import EffectPosterior
    from samsvae.analysis.gene_sets import enrichment, pathway_score
    from samsvae.benchmark.evaluate import evaluate
    from samsvae.analysis.agreement import recovery, stability
    from samsvae.analysis.sgrnas import sgrnas
    from samsvae.analysis.similarity import similar
    from samsvae.analysis.combinations import combinations
    from samsvae.analysis.contrasts import contrast
    from samsvae.analysis.targets import on_target
    from samsvae.analysis.next_perturbations import next_perturbations
    from samsvae.runs.methods import methods_text
    from samsvae.runs.reporting import write_report
    from samsvae.analysis.projection import projection
    from samsvae.settings.train import TrainSettings

# Imported on first use: torch and anndata take seconds to import, and the command line's
# help needs neither.
_HOMES = {
    "CPAVAE": "estimators",
    "SAMSVAE": "estimators",
    "ConditionalVAE": "estimators",
    "SVAEPlus": "estimators",
    "assign_sgrnas": "data.assign_sgrnas",
    "load": "estimators",
    "Screen": "data.screen",
    "counts_from_normalised": "data.counts",
    "read_h5ad": "data.screen",
    "TrainSettings": "settings.train",
    "ate_pearson": "benchmark.ate_pearson",
    "differential_expression": "data.fold_changes",
    "library_sizes": "data.cautions",
    "methods_text": "runs.methods",
    "EffectPosterior": "analysis.effect_posterior",
    "control_calibration": "analysis.discoveries",
    "discoveries": "analysis.discoveries",
    "enrichment": "analysis.gene_sets",
    "next_perturbations": "analysis.next_perturbations",
    "on_target": "analysis.targets",
    "regulators": "analysis.discoveries",
    "similar": "analysis.similarity",
    "sgrnas": "analysis.sgrnas",
    "combinations": "analysis.combinations",
    "contrast": "analysis.contrasts",
    "evaluate": "benchmark.evaluate",
    "pathway_score": "analysis.gene_sets",
    "predictive_check": "benchmark.ate_pearson",
    "projection": "analysis.projection",
    "recovery": "analysis.agreement",
    "stability": "analysis.agreement",
    "write_report": "runs.reporting",
}
_MODULES = {
    "baselines": "baselines",
    "datasets": "datasets",
    "export": "export",
    "features": "features",
    "plotting": "plotting",
    "splits": "data.splits",
}

__all__ = [
    "CPAVAE",
    "SAMSVAE",
    "ConditionalVAE",
    "EffectPosterior",
    "InputError",
    "NonFiniteError",
    "SVAEPlus",
    "Screen",
    "TrainSettings",
    "TrainingInterrupted",
    "__version__",
    "assign_sgrnas",
    "ate_pearson",
    "baselines",
    "combinations",
    "contrast",
    "control_calibration",
    "counts_from_normalised",
    "datasets",
    "differential_expression",
    "discoveries",
    "enrichment",
    "evaluate",
    "export",
    "features",
    "library_sizes",
    "load",
    "methods_text",
    "next_perturbations",
    "on_target",
    "pathway_score",
    "plotting",
    "predictive_check",
    "projection",
    "read_h5ad",
    "recovery",
    "regulators",
    "sgrnas",
    "similar",
    "splits",
    "stability",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        attribute: Any = import_module(f"samsvae.{_MODULES[name]}")
    elif name in _HOMES:
        attribute = getattr(import_module(f"samsvae.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'samsvae' has no attribute {name!r}")
    globals()[name] = attribute
    return attribute


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
