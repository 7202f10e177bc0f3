"""Cells and their latent states as a file for CELLxGENE, a browser of cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.analysis.projection import has_umap, projection
from samsvae.data.expression import normalised
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed, note
from samsvae.estimators.base import Estimator
from samsvae.export.tables import as_anndata
from samsvae.settings.arguments import Count, Natural, checked
from samsvae.storage.tables import write_h5ad

__all__ = ["cellxgene"]

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
    umap-learn is installed: "basal_pca", "state_pca", "basal_umap", "state_umap".

    The h5ad file follows the requirements of the explorer: `X` is ln(1 + 1e4 x / sum x), sparse, in
    float32, and `raw` the counts; layouts are `obsm["X_state_pca"]` and the like; the states
    themselves are `obsm["samsvae_basal"]` and `obsm["samsvae"]`, which are not listed as layouts;
    columns of `obs` are categories or numbers of 32 bits. Publishing on CELLxGENE Discover needs
    ontology terms and Ensembl identifiers in addition, which a screen does not contain.

    Parameters
    ----------
    model, screen
        The trained model, and the cells, matched by gene and perturbation name.
    path
        A file that ends in .h5ad; it is replaced, if it exists.
    obs
        Further columns by cell name, such as cell types.
    title
        Title of the data set.
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
    path = Path(path)
    if path.suffix != ".h5ad":
        raise InputError(f"the path {str(path)!r}: expected a name that ends in .h5ad")
    matched = model.matched(screen)
    if not matched.cells.is_unique:
        raise InputError("cell names are not unique: CELLxGENE identifies cells by their names")
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
    states = model.latent(matched, n_particles=n_particles, seed=seed)
    for name, values in states.items():
        adata.obsm["samsvae" if name == "state" else f"samsvae_{name}"] = values
        for method in _methods(len(matched)):
            points = projection(values, method, seed=seed)
            adata.obsm[f"X_{name}_{method}"] = points.to_numpy(np.float32)
    layouts = [name for name in adata.obsm if name.startswith("X_state")]
    adata.uns |= {"title": title, "default_embedding": layouts[-1]}
    write_h5ad(path, adata)


def _methods(n_cells: int) -> list[Any]:
    if has_umap() and n_cells > 3:
        return ["pca", "umap"]
    note("layouts are principal components alone: for UMAP, pip install 'samsvae[umap]'")
    return ["pca"]


def _joined(own: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return columns of cells, and further ones by the cells' names."""
    clash = [name for name in others.columns if name in own.columns]
    if clash:
        raise InputError(f"the file has columns {listed(clash)} of its own: rename those of obs")
    reserved = [name for name in others.columns if str(name).startswith("__")]
    if reserved:
        raise InputError(f"columns {listed(reserved)}: CELLxGENE keeps names that begin with __")
    if not others.index.is_unique:
        raise InputError("cell names of obs are not unique: make them so")
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
