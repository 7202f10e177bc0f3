"""The file for CELLxGENE: what the explorer asks of it, and the right numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import samsvae
from helpers.screens import half_dead, make_adata, read
from samsvae import export

TRAINING: dict[str, Any] = {
    "alignment": "none",
    "max_steps": 6,
    "batch_size": 64,
    "n_particles": 2,
    "progress": False,
}


@pytest.fixture(autouse=True)
def layouts_of_principal_components(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """UMAP is made, where it is installed, by tests/interop."""
    monkeypatch.setattr("samsvae.export.annotation.has_umap", lambda: False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "layouts are principal components alone")
        yield


def written(model: Any, screen: samsvae.Screen, folder: Path, **asked: Any) -> anndata.AnnData:
    path = folder / "cells.h5ad"
    export.cellxgene(model, screen, path, **asked)
    return anndata.read_h5ad(path)


def test_it_is_what_the_explorer_asks_for(trained: samsvae.SAMSVAE, tmp_path: Path) -> None:
    screen = read(make_adata(), batch_key=None)
    more = pd.DataFrame(
        {
            "cell_type": "T",
            "age": np.arange(len(screen)),
            "is_old": np.arange(len(screen)) > 3,
            "score": 0.5,
            "large": 2**40,
        },
        index=screen.cells[::-1],
    )
    adata = written(trained, screen, tmp_path, obs=more, title="mine")
    counts = screen.counts.toarray()
    x = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    assert sp.issparse(adata.X)
    assert adata.X.dtype == adata.raw.X.dtype == np.float32
    np.testing.assert_allclose(adata.X.toarray(), x, rtol=1e-5)
    np.testing.assert_array_equal(adata.raw.X.toarray(), counts)
    assert list(adata.raw.var_names) == list(adata.var_names) == list(screen.genes)
    layouts = [name for name in adata.obsm if name.startswith("X_")]
    assert layouts == ["X_basal_pca", "X_state_pca"]
    for name in layouts:
        assert adata.obsm[name].shape == (len(screen), 2)
        assert adata.obsm[name].dtype == np.float32
        assert np.isfinite(adata.obsm[name]).all()
    assert adata.uns["default_embedding"] == "X_state_pca"
    assert adata.uns["title"] == "mine"
    assert "no evidence" in adata.uns["samsvae_state"]
    kinds = {name: str(adata.obs[name].dtype) for name in adata.obs}
    assert kinds == {
        **dict.fromkeys(("perturbation", "split", "batch", "cell_type"), "category"),
        **dict.fromkeys(("library_size", "score", "large"), "float32"),
        "age": "int32",
        "is_old": "bool",
    }
    assert adata.obs["age"].tolist() == list(range(len(screen)))[::-1]  # by name
    assert adata.obs["perturbation"].tolist()[:5] == ["control", "A", "B", "C", "A+B"]
    with h5py.File(tmp_path / "cells.h5ad") as file:
        assert file["X"].attrs["encoding-type"] == "csr_matrix"


def test_states_lie_beside_their_layouts(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, tmp_path: Path
) -> None:
    adata = written(trained, screen, tmp_path, n_particles=5, seed=2)
    latent = trained.latent(screen, n_particles=5, seed=2)
    np.testing.assert_allclose(adata.obsm["samsvae"], latent["state"], rtol=1e-5)
    np.testing.assert_allclose(adata.obsm["samsvae_basal"], latent["basal"], rtol=1e-5)
    plane = samsvae.projection(latent["state"])
    np.testing.assert_allclose(adata.obsm["X_state_pca"], plane, rtol=1e-3, atol=1e-5)


def test_real_values_are_written_as_they_are(tmp_path: Path) -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X)
    screen = samsvae.Screen.from_anndata(adata, split_key="split", counts=False)
    model = samsvae.SAMSVAE(screen, n_latent=3, n_hidden=6, likelihood="gaussian")
    found = written(model.train(**TRAINING), screen, tmp_path)
    np.testing.assert_allclose(found.X.toarray(), adata.X, rtol=1e-6)
    assert found.raw is None


def test_who_responds_is_a_column(tmp_path: Path) -> None:
    screen = half_dead(n_cells=200)
    model = samsvae.SAMSVAE(screen, n_latent=3, n_hidden=6, learn_responders=True).train(**TRAINING)
    adata = written(model, screen, tmp_path)
    table = model.responders(screen, n_particles=10, progress=False).cells.set_index("cell")
    told = adata.obs["response_probability"]
    np.testing.assert_allclose(told[table.index], table["probability"], rtol=1e-5)
    assert told[screen.cells[screen.is_control]].isna().all()
    assert adata.obs["sgrna"].dtype == "category"


def test_symbols_are_shown(tmp_path: Path) -> None:
    adata = make_adata()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    screen = read(adata, gene_key="symbol")
    model = samsvae.SAMSVAE(screen, n_latent=3, n_hidden=6).train(**TRAINING)
    assert written(model, screen, tmp_path).var["feature_name"].tolist() == list(
        adata.var["symbol"]
    )


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({"perturbation": 1}, "columns 'perturbation' of its own"),
        ({"__x": 1}, "'__x'.*begin with __"),
        ({"mixed": [1, "a"] * 120}, "'mixed' of obs holds int"),
    ],
)
def test_columns_that_clash_are_refused(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, tmp_path: Path, obs: Any, words: str
) -> None:
    table = pd.DataFrame(obs, index=screen.cells)
    with pytest.raises(samsvae.InputError, match=words):
        written(trained, screen, tmp_path, obs=table)
    assert not list(tmp_path.iterdir())


def test_cells_that_cannot_be_told_apart_are_refused(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, tmp_path: Path
) -> None:
    table = pd.DataFrame({"x": 1}, index=screen.cells)
    with pytest.raises(samsvae.InputError, match="obs lacks 3 of 240 cells"):
        written(trained, screen, tmp_path, obs=table[3:])
    with pytest.raises(samsvae.InputError, match="cell names occur more than once"):
        written(trained, screen, tmp_path, obs=pd.concat([table, table]))
    twins = replace(screen, cells=pd.Index(["same"] * len(screen)))
    with pytest.raises(samsvae.InputError, match="CELLxGENE identifies cells by name"):
        written(trained, twins, tmp_path)
    with pytest.raises(samsvae.InputError, match=r"ends in \.h5ad"):
        export.cellxgene(trained, screen, tmp_path / "cells.h5")
