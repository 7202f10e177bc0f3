"""The members of the family: chosen by name, loaded from where they were saved."""

from __future__ import annotations

import os

import pandas as pd

from samsvae.estimators import saving
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
    model = estimator(saved.estimator)(saved.facts, **saved.hyperparameters)
    model.module.load_state_dict(saved.state)
    model.module.to(resolved)
    model.control_basal = BasalPosterior(
        **{name: value.to(resolved) for name, value in saved.control_basal.tensors().items()}
    )
    model.history = pd.DataFrame(saved.history)
    model.is_trained = True
    return model
