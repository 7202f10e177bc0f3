"""States of cells and effects of conditions, for scanpy, pertpy and CELLxGENE."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.special import expit

from samsvae.analysis.projection import has_umap, projection
from samsvae.data.conditions import Conditions
from samsvae.data.expression import normalised
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_unique, check_unique_cells, listed, note
from samsvae.estimators.base import Estimator
from samsvae.export.tables import as_anndata
from samsvae.settings.arguments import Count, Natural, checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import EffectSettings
from samsvae.settings.screen import ScreenSettings
from samsvae.storage.files import expanded
from samsvae.storage.tables import write_h5ad

BASAL, STATE = "X_samsvae_basal", "X_samsvae"
CAPTION = "samsvae_state"
EMBEDDING, MASK = "X_samsvae_embedding", "X_samsvae_mask"


@checked
@takes(ScreenSettings)
def annotate(
    model: Estimator, adata: AnnData, *, n_particles: Count = 10, seed: Natural = 0, **settings: Any
) -> AnnData:
    """Write the latent states of cells into `adata.obsm`.

    "X_samsvae_basal" is the basal state, without the effect of the perturbation; "X_samsvae" is
    the state, with it. Both are posterior means, as `latent` returns them; scanpy uses them by
    `sc.pp.neighbors(adata, use_rep="X_samsvae")`. `adata.uns["samsvae_state"]` is a caption for
    maps of the state.

    The state contains the label: it is basal + the shift of the cell's perturbation, so clusters by
    label are no evidence of an effect. Of a model with `learn_responders` the shift is weighted by
    the posterior probability that it acts in the cell: cells that do not respond lie with control.

    Parameters
    ----------
    model, adata
        The trained model, and the cells, matched by gene and perturbation name: changed in place.
    n_particles, seed
        Draws of mask and embedding that are averaged over, and their seed.
    **settings
        Where `adata` holds what, as for `samsvae.Screen.from_anndata`, such as `layer`.

    Returns
    -------
    The same object; cells that are dropped (`drop_empty_cells`, `drop_unlabelled`) are NaN.

    Raises
    ------
    InputError
        As in `from_anndata` and `latent`. Nothing is written in this case.

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
        check_unique_cells(adata.obs_names, "dropped cells cannot be identified")
        rows = adata.obs_names.get_indexer(screen.cells)
    for key, values in ((BASAL, states["basal"]), (STATE, states["state"])):
        table = np.full((adata.n_obs, values.shape[1]), np.nan, np.float32)
        table[rows] = values
        adata.obsm[key] = table
    adata.uns[CAPTION] = _caption(model)
    return adata


def _caption(model: Estimator) -> str:
    """Return what the states of a model's cells are, and what a map of them does not show."""
    if model.module.mechanism.additive is None:
        return "The state of a cell is its basal state: nothing displaces it."
    how = "whether or not it acts in the cell"
    if model.has_responders:
        how = "weighted by the posterior probability that it acts in the cell"
    return (
        f"The state of a cell is its basal state + the shift of its label, {how}. It contains the "
        "label: clusters by label are no evidence of an effect."
    )


@checked
@takes(EffectSettings)
def perturbation_space(
    model: Estimator,
    conditions: Conditions | None = None,
    *,
    groups: pd.Series | Mapping[str, str] | None = None,
    **settings: Any,
) -> AnnData:
    """Return the effects and shifts of conditions as AnnData, for comparisons in scanpy and pertpy.

    Parameters
    ----------
    model, conditions, **settings
        The trained model; conditions and settings as in `effects`.
    groups
        Pathway by perturbation (or condition). A combination has one if all its perturbations
        are in the same.

    Returns
    -------
    Conditions (as they are stored) x genes, control first with effects and shifts of 0.

    - `X`, layers "mc_se", "lower" and "upper": as `effects` returns them;
    - `obs`: perturbation (the condition, for pertpy's `groupby` and `target_col`), n_train_cells,
      n_perturbations, estimable, and group, if groups are given;
    - `obsm`, of a model with shifts in latent space: "X_samsvae", the shift, sum of dose *
      probability * embedding; "X_samsvae_embedding", the same without the probability;
      "X_samsvae_mask", the probability that any of its perturbations shifts the dimension;
    - `var`: unexpressed, and symbol if the genes have symbols.

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
    parts = {name: metadata.registry.read(name) for name in rows}
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(rows, rows),
            "n_train_cells": [metadata.n_cells(name) for name in rows],
            "n_perturbations": [len(parts[name]) for name in rows],
            "estimable": [metadata.is_estimable(name) for name in rows],
        },
        index=pd.Index(rows, dtype=str),
    )
    if groups is not None:
        check_unique(groups.keys(), "names in groups", "expected one group of each")
        obs["group"] = pd.Categorical([_group_of(name, parts[name], groups) for name in rows])
    var = effects.var.copy()
    if metadata.registry.symbols:
        var["symbol"] = list(metadata.registry.symbols)
    return AnnData(
        _below_control(effects.X),
        obs=obs,
        var=var,
        layers={name: _below_control(effects.layers[name]) for name in _LAYERS},
        obsm=_displacements(model, rows),
        uns={"samsvae": {"model": model.name, **effects.uns}},
    )


def _group_of(
    condition: str, parts: Iterable[str], groups: pd.Series | Mapping[str, str]
) -> str | None:
    """Return the group of a condition, or the one that all its perturbations share."""
    if condition in groups:
        return str(groups[condition])
    candidates = {groups.get(part) for part in parts}
    only = candidates.pop() if len(candidates) == 1 else None
    return None if only is None else str(only)


def _displacements(model: Estimator, conditions: Sequence[str]) -> dict[str, np.ndarray]:
    """Return shifts, embeddings and masks of conditions, if the model has any."""
    additive = model.module.mechanism.additive
    if additive is None:
        return {}
    received = model.encoding(model.metadata.received(conditions))
    doses = received.astype(float)  # sparse: there may be many conditions and perturbations
    if additive.dose_response is not None:
        log_half, slope = (
            values.detach().double().cpu().numpy()[doses.indices]
            for values in (additive.dose_response.log_half_dose, additive.dose_response.log_slope)
        )
        doses.data = expit(np.exp(slope) * (np.log(doses.data) - log_half))
    probability, embedding = (
        table.fillna(0).to_numpy() for table in (model.mask_probabilities(), model.embeddings())
    )
    log_unshifted = doses.astype(bool) @ np.log1p(-probability.clip(max=1 - 1e-12))
    values = {
        STATE: doses @ (probability * embedding),
        EMBEDDING: doses @ embedding,
        MASK: 1 - np.exp(log_unshifted),
    }
    return {key: value.astype(np.float32) for key, value in values.items()}


_LAYERS = ("mc_se", "lower", "upper")


def _below_control(values: Any) -> np.ndarray:
    """Return effects with a first row of zeros, that of control."""
    return np.pad(np.asarray(values, np.float32), ((1, 0), (0, 0)))


_INT32 = np.iinfo(np.int32)


@checked
def cellxgene(
    model: Estimator,
    screen: Screen,
    path: str | os.PathLike[str],
    *,
    obs: pd.DataFrame | None = None,
    title: str = "samsvae",
    n_particles: Count = 10,
    seed: Natural = 0,
) -> None:
    """Write cells for CELLxGENE: `cellxgene launch PATH` shows them in a browser.

    Layouts are the principal components of basal states and states (posterior means), and UMAP if
    umap-learn is installed: `obsm["X_basal_pca"]`, "X_state_pca", "X_basal_umap", "X_state_umap".
    States contain the label of a cell, see `annotate`: `uns["samsvae_state"]` says so.

    The h5ad file follows the requirements of the explorer: `X` is ln(1 + 1e4 x / sum x), sparse, in
    float32, and `raw` the counts; the states themselves, which are not listed as layouts, are
    `obsm["samsvae_basal"]` and `obsm["samsvae"]`; columns of `obs` are categories or numbers of 32
    bits. Publishing on CELLxGENE Discover needs ontology terms and Ensembl identifiers in addition.

    Parameters
    ----------
    model, screen
        The trained model, and the cells, matched by gene and perturbation name.
    path, title
        A file that ends in .h5ad, replaced if it exists; title of the data set.
    obs
        Further columns by cell name, such as cell types.
    n_particles, seed
        Of the states, as in `annotate`.

    Raises
    ------
    InputError
        If the model is not trained, names of cells are not unique, columns clash or are neither
        categories nor numbers, or the file cannot be written.

    References
    ----------
    https://github.com/chanzuckerberg/cellxgene-documentation/blob/main/desktop/data-reqs.md,
    https://github.com/chanzuckerberg/single-cell-curation

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cellxgene(model, screen.test, f"{folder}/cells.h5ad")
    """
    path = expanded(path)
    if path.suffix != ".h5ad":
        raise InputError(f"the path {str(path)!r}: expected a name that ends in .h5ad")
    matched = model.matched(screen)
    check_unique_cells(matched.cells, "CELLxGENE identifies cells")
    adata = matched.to_anndata()
    if obs is not None:
        adata.obs = _joined(adata.obs, obs)
    if model.has_responders:
        cells = model.responders(matched, n_particles=n_particles, seed=seed, progress=False).cells
        responses = as_anndata(cells).obs["probability"]  # NaN of cells with several perturbations
        adata.obs["response_probability"] = responses.reindex(matched.cells)
    adata.obs = pd.DataFrame({name: _plain(adata.obs[name]) for name in adata.obs})
    if matched.registry.symbols:
        adata.var["feature_name"] = pd.Categorical(matched.registry.symbols)
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    if matched.registry.counts:
        adata.raw = AnnData(adata.X, obs=adata.obs[[]], var=adata.var)
        adata.X = normalised(adata.X, "normalized").log1p().astype(np.float32)
    methods: list[Any] = ["pca", "umap"] if has_umap() and len(matched) > 3 else ["pca"]
    if len(methods) == 1:
        note("layouts are principal components alone: for UMAP, pip install 'samsvae[umap]'")
    states = model.latent(matched, n_particles=n_particles, seed=seed)
    for name, values in states.items():
        adata.obsm["samsvae" if name == "state" else f"samsvae_{name}"] = values
        for method in methods:
            points = projection(values, method, seed=seed)
            adata.obsm[f"X_{name}_{method}"] = points.to_numpy(np.float32)
    layouts = [name for name in adata.obsm if name.startswith("X_state")]
    adata.uns |= {"title": title, "default_embedding": layouts[-1], CAPTION: _caption(model)}
    write_h5ad(path, adata)


def _joined(own: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return columns of cells, and further ones by the cells' names."""
    clash = [name for name in others.columns if name in own.columns]
    if clash:
        raise InputError(f"the file has columns {listed(clash)} of its own: rename those of obs")
    reserved = [name for name in others.columns if str(name).startswith("__")]
    if reserved:
        raise InputError(f"columns {listed(reserved)}: CELLxGENE keeps names that begin with __")
    check_unique_cells(others.index, "obs cannot be matched with cells")
    missing = own.index.difference(others.index)
    if len(missing):
        raise InputError(f"obs lacks {len(missing)} of {len(own)} cells: {listed(missing)}")
    return own.join(others)


def _plain(column: pd.Series) -> pd.Series:
    """Return a column as the explorer reads it: categories, or numbers of 32 bits."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories()
    kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
    if kind == "b":
        return column
    if kind in "iu" and column.between(_INT32.min, _INT32.max).all():
        return column.astype(np.int32)
    if kind in "iuf":
        return column.astype(np.float32)
    values = column.dropna()
    if not values.map(lambda value: isinstance(value, str)).all():
        raise InputError(
            f"column {column.name!r} of obs holds {type(values.iloc[0]).__name__} and others: "
            "expected texts, categories, numbers, or True and False"
        )
    return column.astype("category")
