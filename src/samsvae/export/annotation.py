"""What a model knows, written where scanpy, pertpy and the tools around them look for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae.data.conditions import Conditions
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import EffectSettings
from samsvae.settings.screen import ScreenSettings

BASAL, STATE = "X_samsvae_basal", "X_samsvae"
EMBEDDING, MASK = "X_samsvae_embedding", "X_samsvae_mask"


@checked
@takes(ScreenSettings)
def annotate(
    model: Estimator, adata: AnnData, *, n_particles: int = 10, seed: int = 0, **settings: Any
) -> AnnData:
    """Write the latent states of cells into `adata.obsm`.

    "X_samsvae_basal" is the basal state: the cell without its perturbation. "X_samsvae" is the
    state: with it. Both are posterior means, as `latent` gives them; scanpy takes them by
    `sc.pp.neighbors(adata, use_rep="X_samsvae")`.

    Parameters
    ----------
    model
        Trained.
    adata
        The cells; matched by gene and perturbation name. It is changed in place.
    n_particles
        Draws of mask and embedding that are averaged over.
    seed
        Same seed, same numbers.
    **settings
        Where it holds what, as `samsvae.Screen.from_anndata` takes them: such as `layer`,
        where `adata.X` does not hold the counts, or `perturbation_key`.

    Returns
    -------
    The same object. Cells that the settings leave out (`drop_empty_cells`,
    `drop_unlabelled`) are rows of NaN.

    Raises
    ------
    InputError
        If the model is not trained, or the cells cannot be used: as in `from_anndata` and
        `latent`. Nothing is written then.

    Examples
    --------
    >>> adata = annotate(model, screen.train.to_anndata())
    >>> adata.obsm["X_samsvae"].shape == (adata.n_obs, 4)
    True
    """
    model.generator(seed)  # raises unless the model can answer
    screen = Screen.from_anndata(adata, **settings)
    states = model.latent(screen, n_particles=n_particles, seed=seed)
    rows: Any = slice(None)
    if len(screen) != adata.n_obs:
        if not adata.obs_names.is_unique:
            raise InputError(
                "cell names are not unique, so it cannot be told which cells are left out: "
                "make them unique with adata.obs_names_make_unique()"
            )
        rows = adata.obs_names.get_indexer(screen.cells)
    for key, values in ((BASAL, states["basal"]), (STATE, states["state"])):
        table = np.full((adata.n_obs, values.shape[1]), np.nan, np.float32)
        table[rows] = values
        adata.obsm[key] = table
    return adata


@checked
@takes(EffectSettings)
def perturbation_space(
    model: Estimator,
    conditions: Conditions | None = None,
    *,
    groups: pd.Series | Mapping[str, str] | None = None,
    **settings: Any,
) -> AnnData:
    """Return conditions as the rows of an AnnData object: what scanpy and pertpy compare.

    Control is the first row; its effects and shifts are 0.

    Parameters
    ----------
    model
        Trained.
    conditions
        As in `effects`; by default those of the training cells.
    groups
        Pathway by perturbation (or condition). A combination has one if all its perturbations
        are in the same.
    **settings
        Of the effects, as in `effects`.

    Returns
    -------
    Conditions (as they are stored) x genes: `X` the effects, layers "mc_se", "lower" and
    "upper", all as `effects` returns them. `obs`: perturbation (the condition, for pertpy's
    `groupby` and `target_col`), n_train_cells, n_perturbations, estimable, and group, where
    groups are given. `obsm`, of a model that displaces cells in latent space: "X_samsvae", the
    shift, sum of dose * probability * embedding; "X_samsvae_embedding", the same without the
    probability; "X_samsvae_mask", the probability that any of its perturbations shifts the
    dimension. `var`: unexpressed, and symbol where the genes have symbols.

    Raises
    ------
    InputError
        As `effects` does.

    Examples
    --------
    >>> space = perturbation_space(model, ["G01", "G02+G01"], n_particles=20, progress=False)
    >>> list(space.obs_names), space.obsm["X_samsvae"].shape
    (['control', 'G01', 'G01+G02'], (3, 4))
    """
    metadata, control = model.metadata, model.metadata.conditions[0]
    stored = dict.fromkeys(metadata.stored(name) for name in metadata.labels(conditions))
    names = [name for name in stored if name != control]
    effects = model.effects(names, **settings)
    rows = [control, *names]
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(rows, rows),
            "n_train_cells": [metadata.n_cells(name) for name in rows],
            "n_perturbations": [len(_parts(model, name)) for name in rows],
            "estimable": [metadata.is_estimable(name) for name in rows],
        },
        index=pd.Index(rows, dtype=str),
    )
    if groups is not None:
        obs["group"] = pd.Categorical([_group_of(model, name, groups) for name in rows])
    var = effects.var.copy()
    if metadata.registry.symbols:
        var["symbol"] = list(metadata.registry.symbols)
    space = AnnData(
        _below_control(effects.X),
        obs=obs,
        var=var,
        layers={name: _below_control(effects.layers[name]) for name in _LAYERS},
        uns={"samsvae": {"model": model.name, **effects.uns}},
    )
    for key, values in _displacements(model, rows).items():
        space.obsm[key] = values.astype(np.float32)
    return space


def _parts(model: Estimator, condition: str) -> Mapping[str, float]:
    return model.metadata.registry.read(condition)


def _group_of(
    model: Estimator, condition: str, groups: pd.Series | Mapping[str, str]
) -> str | None:
    if condition in groups:
        return str(groups[condition])
    found = {groups.get(part) for part in _parts(model, condition)}
    only = found.pop() if len(found) == 1 else None
    return None if only is None else str(only)


def _displacements(model: Estimator, conditions: Sequence[str]) -> dict[str, np.ndarray]:
    """Return shifts, embeddings and masks of conditions; none, without displacements."""
    additive = model.module.mechanism.additive
    if additive is None:
        return {}
    received = model.encoding(model.metadata.received(conditions))
    doses = received.astype(float)  # sparse: conditions x perturbations may be many
    if additive.dose_response is not None:
        curve = model.dose_parameters().fillna(1.0)
        half, slope = (curve[name].to_numpy()[doses.indices] for name in ("half_dose", "slope"))
        power = doses.data**slope
        doses.data = power / (power + half**slope)
    probability, embedding = (
        table.fillna(0).to_numpy() for table in (model.mask_probabilities(), model.embeddings())
    )
    spared = np.exp(doses.astype(bool) @ np.log1p(-probability.clip(max=1 - 1e-12)))
    return {
        STATE: doses @ (probability * embedding),
        EMBEDDING: doses @ embedding,
        MASK: 1 - spared,
    }


_LAYERS = ("mc_se", "lower", "upper")


def _below_control(values: Any) -> np.ndarray:
    """Return effects with a row of zeros above them: that of control."""
    rows = np.asarray(values, np.float32)
    return np.vstack([np.zeros((1, rows.shape[1]), np.float32), rows])
