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
from samsvae.settings.arguments import checked
from samsvae.storage.tables import write_h5ad

__all__ = ["cellxgene"]

_WHOLE = np.iinfo(np.int32)


@checked
def cellxgene(
    model: Estimator,
    screen: Screen,
    path: str | os.PathLike[str],
    *,
    obs: pd.DataFrame | None = None,
    title: str = "samsvae",
    n_particles: int = 10,
    seed: int = 0,
) -> None:
    """Write cells for CELLxGENE: `cellxgene launch PATH` shows them in a browser.

    The layouts to choose from are the cells' basal states and states (posterior means), in the
    plane of their principal components, and by UMAP where umap-learn is installed: "basal_pca",
    "state_pca", "basal_umap", "state_umap".

    It is an h5ad file as the explorer reads it: `X` is ln(1 + 1e4 x / sum x), sparse, in float32,
    and `raw` the counts; layouts are `obsm["X_state_pca"]` and the like; the states themselves are
    `obsm["samsvae_basal"]` and `obsm["samsvae"]`, which it does not take for layouts; columns of
    `obs` are categories or numbers of 32 bits. What CELLxGENE Discover asks for beside that, to
    publish a data set (terms of ontologies, Ensembl identifiers), a screen does not know.

    Parameters
    ----------
    model
        Trained.
    screen
        The cells; matched by gene and perturbation name.
    path
        A file that ends in .h5ad; it is replaced, if it exists.
    obs
        Further columns by cell name, such as cell types.
    title
        Of the data set.
    n_particles, seed
        Of the states, as in `annotate`.

    Raises
    ------
    InputError
        If the model is not trained, names of cells are not unique, columns clash or are no
        categories and no numbers, or the file cannot be written.

    References
    ----------
    What the explorer asks of a file, and the schema of CELLxGENE:
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
        raise InputError("cell names are not unique: CELLxGENE tells cells by their names")
    adata = matched.to_anndata()
    if obs is not None:
        adata.obs = _joined(adata.obs, obs)
    if model.has_responders:
        adata.obs["response_probability"] = _responses(model, matched, n_particles, seed)
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
    strange = [name for name in others.columns if str(name).startswith("__")]
    if strange:
        raise InputError(f"columns {listed(strange)}: CELLxGENE keeps names that begin with __")
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
    if kind in "iu" and column.between(_WHOLE.min, _WHOLE.max).all():
        return column.astype(np.int32)
    if kind in "iuf":
        return column.astype(np.float32)
    known = column.dropna()
    if not known.map(lambda value: isinstance(value, str)).all():
        raise InputError(
            f"column {column.name!r} of obs holds {type(known.iloc[0]).__name__} and others: "
            "expected texts, categories, numbers, or True and False"
        )
    return column.astype("category")


def _responses(model: Estimator, screen: Screen, n_particles: int, seed: int) -> pd.Series:
    """Return the probability that a cell responds; of those with one perturbation."""
    asked: dict[str, Any] = {"n_particles": n_particles, "seed": seed, "progress": False}
    table = model.responders(screen, **asked).cells
    alone = table[~table["cell"].duplicated(keep=False)]
    return alone.set_index("cell")["probability"].reindex(screen.cells)
