"""The paragraph on a trained model for the Methods section of a paper, with its references."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samsvae._version import __version__
from samsvae.estimators.base import Estimator
from samsvae.runs.run import Run
from samsvae.settings.arguments import checked
from samsvae.settings.experiment import complete

_PAPER = (
    "Bereket M, Karaletsos T. Modelling Cellular Perturbations with the Sparse Additive Mechanism "
    "Shift Variational Autoencoder. Advances in Neural Information Processing Systems 36, 2023. "
    "https://doi.org/10.48550/arXiv.2311.02794"
)
_MODELS = {
    "sams-vae": ("the sparse additive mechanism shift variational autoencoder (SAMS-VAE)", _PAPER),
    "cpa-vae": (
        "the compositional perturbation autoencoder as a variational autoencoder (CPA-VAE)",
        "Lotfollahi M, et al. Predicting cellular responses to complex perturbations in "
        "high-throughput screens. Molecular Systems Biology 19: e11517, 2023. "
        "https://doi.org/10.15252/msb.202211517",
    ),
    "svae-plus": (
        "the sparse mechanism shift variational autoencoder (SVAE+)",
        "Lopez R, et al. Learning causal representations of single cells via sparse mechanism "
        "shift modeling. Conference on Causal Learning and Reasoning, 2023. "
        "https://doi.org/10.48550/arXiv.2211.03553",
    ),
    "conditional-vae": (
        "a conditional variational autoencoder",
        "Sohn K, Lee H, Yan X. Learning structured output representation using deep conditional "
        "generative models. Advances in Neural Information Processing Systems 28, 2015.",
    ),
}
"""By name of the model: what it is called in a sentence, and its reference."""
_ADAM = (
    "Kingma DP, Ba J. Adam: a method for stochastic optimization. International Conference on "
    "Learning Representations, 2015. https://doi.org/10.48550/arXiv.1412.6980"
)
_RATES = (
    "Stephens M. False discovery rates: a new deal. Biostatistics 18: 275-294, 2017. "
    "https://doi.org/10.1093/biostatistics/kxw041"
)
_LIKELIHOODS = {
    "negative_binomial": "negative binomial",
    "poisson": "Poisson",
    "gaussian": "Gaussian",
}


@checked
def methods_text(run: str | os.PathLike[str]) -> str:
    """Return a paragraph for the Methods section on the model of a run, and the references.

    Everything in it is read from the run: versions, numbers of cells, settings, when training
    ended. What you asked the model afterwards, and how you made the counts, is yours to add.

    Parameters
    ----------
    run
        Run directory of `samsvae train`, or the folder of a saved model (then without the settings
        of training, which it does not have).

    Raises
    ------
    InputError
        If there is no trained model.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     model.save(folder)
    ...     print(samsvae.methods_text(folder).split(" with samsvae")[0])
    Counts of 20 genes in 918 training cells were modelled
    """
    folder = Run(Path(run))
    model = folder.model("cpu")
    return methods_of(model, folder.config() if (folder / "config.toml").is_file() else {})


def methods_of(model: Estimator, settings: Mapping[str, Any]) -> str:
    """Return the text on a model, given the settings of its run; none: without its training."""
    called, reference = _MODELS[model.name]
    references = list(dict.fromkeys([_PAPER, reference]))
    sentences = [*_of_data(model, settings), *_of_model(model, called, len(references))]
    if settings:
        references.append(_ADAM)
        sentences += _of_training(model, complete(settings), len(references))
    if "lfc" in model.module.likelihood.scales:
        references.append(_RATES)
        sentences.append(
            "Effects are log2 fold changes of expected expression relative to the typical gene; "
            "local false sign rates and q values are those of a mixture prior of effects, learned "
            f"from validation cells [{len(references)}]."
        )
    listed = "\n".join(f"[{i}] {text}" for i, text in enumerate(references, 1))
    return f"{' '.join(sentences)}\n\n{listed}"


def _of_data(model: Estimator, settings: Mapping[str, Any]) -> Iterator[str]:
    metadata, registry = model.metadata, model.registry
    n_cells = metadata.cells_per_condition
    kind = "Counts" if registry.counts else "Values"
    yield (
        f"{kind} of {len(registry.genes):,} genes in {int(n_cells.sum()):,} training cells were "
        f"modelled with samsvae {__version__} (torch {torch.__version__.split('+')[0]}): "
        f"{int(n_cells[0]):,} control cells and {len(metadata.conditions) - 1:,} conditions of "
        f"{len(metadata.trained_perturbations):,} perturbations, with a median of "
        f"{np.median(n_cells[1:]):,.0f} cells."
    )
    if registry.batch_names:
        columns = ", ".join(settings.get("batch_key") or ()) or "batch"
        yield f"Effects compare within {len(registry.batch_names)} batches ({columns})."
    if settings.get("replicate_key"):
        column = settings["replicate_key"]
        yield f"Standard errors include the variance between replicates ({column})."


def _of_model(model: Estimator, called: str, reference: int) -> Iterator[str]:
    has = model.hyperparameters
    layers = f"{has['n_layers']} hidden layer{'' if has['n_layers'] == 1 else 's'}"
    likelihood = _LIKELIHOODS.get(has["likelihood"], has["likelihood"])
    as_in = "" if reference == 1 else ", as in [1],"
    yield (
        f"The model is {called} [{reference}]{as_in} with {has['n_latent']} latent dimensions, an "
        f"encoder and a decoder of {layers} of {has['n_hidden']} units, and a {likelihood} "
        "likelihood."
    )
    if has.get("learn_responders"):
        yield "Whether a perturbation acts in a cell is inferred by cell."


def _of_training(model: Estimator, settings: Mapping[str, Any], reference: int) -> Iterator[str]:
    history = model.history
    split = "given" if settings.get("split_key") else "random"
    yield (
        f"With a {split} split into training, validation and test cells, the evidence lower bound "
        f"(ELBO) was maximised by Adam [{reference}] (learning rate {settings['learning_rate']:g}, "
        f"batches of {settings['batch_size']} cells, {settings['n_particles']} draw"
        f"{'' if settings['n_particles'] == 1 else 's'} per cell, seed {settings['seed']})."
    )
    aligned = "is_aligned" in history and bool(history["is_aligned"].any())
    if aligned:
        yield (
            "Masks were open in a first phase, after which latent space was rotated to the axes "
            "that make shifts sparse; in a second phase masks were inferred."
        )
    if settings.get("patience"):
        what = "Each phase" if aligned else "Training"
        yield (
            f"{what} ended when the ELBO of validation cells had not risen for "
            f"{settings['patience']:g} epochs."
        )
    if history["valid_elbo"].notna().any():
        kept = history[history["is_best"]].iloc[-1]
        yield (
            f"Of {int(history['step'].iloc[-1]):,} steps the model of step {int(kept['step']):,} "
            f"was kept, whose validation ELBO was the highest ({kept['valid_elbo']:.2f} nats per "
            "cell)."
        )
    if aligned:
        yield "Inclusion probabilities are those of a closed-form update after training."
