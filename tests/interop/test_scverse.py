"""scanpy and pertpy take what models write (make test-interop installs them)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import make_adata


def brought(name: str) -> Any:
    with warnings.catch_warnings(action="ignore"):  # their own, at import
        return pytest.importorskip(
            name, reason=f"{name} is not installed: make test-interop does it"
        )


pytestmark = pytest.mark.filterwarnings("ignore")  # what other packages warn of is theirs


def test_scanpy_makes_neighbours_and_umap_of_states(trained: samsvae.SAMSVAE) -> None:
    sc = brought("scanpy")
    adata = samsvae.export.annotate(trained, make_adata())
    sc.pp.neighbors(adata, n_neighbors=10, use_rep="X_samsvae", random_state=0)
    sc.tl.umap(adata, random_state=0)
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)
    assert np.isfinite(adata.obsm["X_umap"]).all()
    # The neighbours are those of the states: who is near in one is near in the other.
    states = adata.obsm["X_samsvae"]
    apart = np.linalg.norm(states[:, None] - states[None], axis=2)
    linked = adata.obsp["connectivities"].toarray() > 0
    assert apart[linked].mean() < 0.5 * apart[~linked].mean()


def test_scanpy_takes_perturbations_for_cells(trained: samsvae.SAMSVAE) -> None:
    sc = brought("scanpy")
    space = samsvae.export.perturbation_space(trained, n_particles=30, progress=False)
    sc.pp.pca(space, n_comps=2)
    sc.pp.neighbors(space, n_neighbors=3, use_rep="X_samsvae", random_state=0)
    sc.tl.umap(space, random_state=0, init_pos="random")
    assert space.obsm["X_umap"].shape == (5, 2)


def test_pertpy_measures_distances_of_perturbations(trained: samsvae.SAMSVAE) -> None:
    pt = brought("pertpy")
    groups = {"A": "one", "B": "one", "C": "two"}
    space = samsvae.export.perturbation_space(
        trained, groups=groups, n_particles=30, progress=False
    )
    distance = pt.tl.Distance(metric="euclidean", obsm_key="X_samsvae")
    table = distance.pairwise(space, groupby="perturbation", show_progressbar=False)
    shift = pd.DataFrame(space.obsm["X_samsvae"], space.obs_names)
    for first in shift.index:
        for second in shift.index:
            wanted = np.linalg.norm(shift.loc[first] - shift.loc[second])
            np.testing.assert_allclose(table.loc[first, second], wanted, rtol=1e-4, atol=1e-6)
    known = space[space.obs["group"].notna()].copy()
    between = pt.tl.Distance(metric="edistance", obsm_key="X_samsvae")
    table = between.pairwise(known, groupby="group", show_progressbar=False)
    assert sorted(table.index) == ["one", "two"]
    assert table.loc["one", "two"] > 0


def test_pertpy_adds_and_subtracts_perturbations(trained: samsvae.SAMSVAE) -> None:
    pt = brought("pertpy")
    space = samsvae.export.perturbation_space(trained, n_particles=30, progress=False)
    # Of a pair that has no row of its own: pertpy gives the sum the name "A+C".
    added = pt.tl.PseudobulkSpace().add(
        space, perturbations=["A", "C"], reference_key="control", target_col="perturbation"
    )
    found = added.to_df().iloc[-1].to_numpy()
    wanted = space.to_df().loc[["A", "C"]].sum().to_numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_scanpy_reads_the_file_for_cellxgene(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, tmp_path: Path
) -> None:
    sc = brought("scanpy")
    path = tmp_path / "cells.h5ad"
    samsvae.export.cellxgene(trained, screen, path)
    adata = anndata.read_h5ad(path)
    layouts = {name for name in adata.obsm if name.startswith("X_")}
    assert layouts == {"X_basal_pca", "X_basal_umap", "X_state_pca", "X_state_umap"}
    assert adata.uns["default_embedding"] == "X_state_umap"
    assert all(np.isfinite(adata.obsm[name]).all() for name in layouts)
    sc.pp.neighbors(adata, n_neighbors=10, use_rep="samsvae", random_state=0)
    sc.tl.umap(adata, random_state=0)
    sc.tl.rank_genes_groups(adata, "perturbation", reference="control", use_raw=False)
    top = adata.uns["rank_genes_groups"]["names"]["A"]
    assert top[0] == "g0"  # the gene that A raises fourfold


def test_umap_is_that_of_its_seed() -> None:
    brought("umap")
    rows = np.random.default_rng(0).normal(0, 1, (60, 5))
    rows[:30] += 12
    first = samsvae.projection(rows, "umap", seed=1)
    pd.testing.assert_frame_equal(first, samsvae.projection(rows, "umap", seed=1))
    assert list(first.columns) == ["UMAP 1", "UMAP 2"]
    own, other = first.iloc[:30], first.iloc[30:]
    apart = np.linalg.norm(own.mean() - other.mean())
    assert apart > 2 * max(own.std().max(), other.std().max())
    with pytest.raises(samsvae.InputError, match="3 rows: expected 4"):
        samsvae.projection(rows[:3], "umap")
