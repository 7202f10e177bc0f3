"""The members of the family: chosen by name, loaded from where they were saved."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from samsvae.errors import InputError
from samsvae.estimators import saving, schema
from samsvae.estimators.base import Estimator, by_name
from samsvae.estimators.conditional_vae import ConditionalVAE
from samsvae.estimators.cpa_vae import CPAVAE
from samsvae.estimators.sams_vae import SAMSVAE
from samsvae.estimators.svae_plus import SVAEPlus
from samsvae.inference.latent import BasalPosterior
from samsvae.ops.device import resolve_device
from samsvae.settings.arguments import checked

ESTIMATORS: list[type[Estimator]] = [SAMSVAE, CPAVAE, SVAEPlus, ConditionalVAE]
"""The members of the family."""


def estimator(name: str) -> type[Estimator]:
    """Return a member of the family.

    Parameters
    ----------
    name
        "sams-vae", "cpa-vae", "svae-plus" or "conditional-vae".

    Raises
    ------
    InputError
        If there is no such model.
    """
    return by_name("model", name, ESTIMATORS)


@checked
def load(folder: str | os.PathLike[str], *, device: str = "cpu") -> Estimator:
    """Load a model that `save` wrote; it needs no data to answer.

    Parameters
    ----------
    folder
        Where it was saved: a run directory, say.
    device
        Any device, whatever the model was trained on; "auto" takes a GPU where there is one.

    Raises
    ------
    InputError
        If the files are missing, truncated, of a newer schema or do not belong together.

    Examples
    --------
    >>> import samsvae
    >>> screen = samsvae.datasets.simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20)
    >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> model = model.train(max_steps=5, progress=False)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(folder)
    ...     again = load(folder)
    >>> bool((again.embeddings() == model.embeddings()).all(axis=None))
    True
    """
    saved, resolved = saving.read(folder), resolve_device(device)
    with schema.of_file(Path(folder) / saving.NAMES):
        schema.check_conditions(saved.facts.conditions, saved.facts.vocabulary)
        kind = estimator(saved.estimator)
        hints = {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
        schema.check_hyperparameters(saved.hyperparameters, hints)
        with torch.device("meta"):  # takes no memory, whatever sizes are asked for
            outline = kind(saved.facts, **saved.hyperparameters)
        schema.check_state(outline.module, saved.state)
        n_covariates = saved.facts.vocabulary.n_covariates
        schema.check_control(saved.control_basal.tensors(), outline.n_latent, n_covariates)
    model = kind(saved.facts, **saved.hyperparameters)
    model.module.load_state_dict(saved.state)
    model.module.to(resolved)
    model.control_basal = BasalPosterior(
        **{name: value.to(resolved) for name, value in saved.control_basal.tensors().items()}
    )
    model.history = pd.DataFrame(saved.history)
    model.is_trained = True
    with schema.of_file(Path(folder) / saving.TENSORS):
        _check_answers(model)
    return model


def _check_answers(model: Estimator) -> None:
    """Raise if control cells cannot be drawn: parameters may be numbers, and lead to none."""
    try:
        drawn = model.simulate([model.facts.conditions[0]], n_cells=4)
    except RuntimeError as error:  # of torch's sampler
        raise InputError(f"its parameters lead to no counts ({error})") from error
    values = drawn.X.data if sp.issparse(drawn.X) else drawn.X
    if not np.isfinite(values).all():
        raise InputError("its parameters lead to values that are not finite")
