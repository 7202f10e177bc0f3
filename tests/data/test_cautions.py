"""What cells say against effects: each is said where it is so, and nowhere else."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import samsvae
from samsvae.data.cautions import Caution, cautions_of_cells

N_CELLS, N_GENES = 150, 60
NAMES = ["control", "A", "B", "C"]
SILENT = "Cells are taken as independent"


def cells(seed: int = 0, **changed: Any) -> ad.AnnData:
    """Return cells without effects; `changed` are factors of expected counts, by name.

    `size` is by cell, `gene` by cell and gene; `labels` are the conditions of cells.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(changed.get("labels", NAMES), N_CELLS)
    share = rng.dirichlet(np.full(N_GENES, 5.0))
    size = 500 * np.exp(rng.normal(0, 0.3, len(labels))) * changed.get("size", 1.0)
    counts = rng.poisson(size[:, None] * share * changed.get("gene", 1.0))
    obs = pd.DataFrame({"perturbation": labels}, [f"c{i}" for i in range(len(labels))])
    genes = pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=genes)


def found(adata: ad.AnnData, **keys: Any) -> dict[str, Caution]:
    screen = samsvae.Screen.from_anndata(adata, **keys)
    return {one.title: one for one in cautions_of_cells(screen)}


def of(name: str) -> np.ndarray:
    return np.repeat(NAMES, N_CELLS) == name


@pytest.mark.parametrize("seed", range(5))
def test_cells_alike_give_no_caution(seed: int) -> None:
    adata = cells(seed)
    rng = np.random.default_rng(seed)
    adata.obs["phase"] = rng.choice(["G1", "S"], adata.n_obs)
    adata.obs["score"] = rng.normal(size=adata.n_obs)
    assert list(found(adata)) == [SILENT]


def test_the_library_size_is_compared_within_batches() -> None:
    adata = cells(size=np.where(of("A"), 0.5, 1.0))
    caution = found(adata)["Library size differs"]
    assert caution.conditions == ("A",)
    assert "A 0.5" in caution.text
    table = samsvae.library_sizes(samsvae.Screen.from_anndata(adata))
    assert table.loc["A", "log2_ratio"] == pytest.approx(-1, abs=0.1)
    assert abs(table.loc["B", "log2_ratio"]) < 0.15
    assert table["n_cells"].tolist() == [N_CELLS] * 3
    lane = np.random.default_rng(0).random(adata.n_obs) < np.where(of("A"), 0.9, 0.2)
    adata = cells(size=np.where(lane, 0.5, 1.0))
    adata.obs["lane"] = np.where(lane, "x", "y")
    assert "Library size differs" in found(adata)
    assert "Library size differs" not in found(adata, batch_key="lane")


def test_a_change_of_composition_names_its_genes() -> None:
    factor = np.ones((4 * N_CELLS, N_GENES))
    factor[of("B"), :3] = 6.0
    caution = found(cells(gene=factor))["Composition"]
    assert caution.conditions == ("B",)
    named = caution.text.split("(")[-1].split(")")[0].split(", ")
    assert set(named) == {"g0", "g1", "g2"}


def test_a_column_that_differs_is_named() -> None:
    rng, adata = np.random.default_rng(0), cells()
    adata.obs["phase"] = np.where(rng.random(adata.n_obs) < np.where(of("C"), 0.8, 0.4), "S", "G1")
    adata.obs["stress"] = rng.normal(size=adata.n_obs) + 2 * of("A")
    adata.obs["target"] = [f"gene of {name}" for name in adata.obs["perturbation"]]  # its name
    adata.obs["n_genes"] = rng.normal(size=adata.n_obs) + 2 * of("A")
    cautions = found(adata)
    assert list(cautions) == ["Cells differ in phase", "Cells differ in stress", SILENT]
    assert cautions["Cells differ in phase"].conditions == ("C",)
    assert cautions["Cells differ in stress"].conditions == ("A",)
    told = found(adata[adata.obs["phase"].notna()].copy(), batch_key="phase")
    assert "Cells differ in phase" not in told


def test_few_cells_are_named() -> None:
    adata = cells()
    few = np.flatnonzero(of("B"))[29:]
    caution = found(adata[~np.isin(np.arange(adata.n_obs), few)].copy())["Few cells"]
    assert caution.conditions == ("B",)
    assert "1 of 3 conditions (B) has fewer than 30 cells" in caution.text
    many = [f"P{i:03d}" for i in range(20)]
    small = cells(labels=["control", *many])
    label = small.obs["perturbation"]
    kept = (label == "control") | (label.groupby(label).cumcount() < 5)
    text = found(small[kept.to_numpy()].copy())["Few cells"].text
    assert "20 of 20 conditions (P000, " in text
    assert "and 12 more" in text


def test_replicates_that_are_told_are_not_asked_for() -> None:
    adata = cells()
    adata.obs["clone"] = [f"{name}{i % 3}" for i, name in enumerate(adata.obs["perturbation"])]
    assert SILENT in found(adata)
    assert SILENT not in found(adata, replicate_key="clone")


def test_doublets_show_in_library_sizes() -> None:
    twice = np.random.default_rng(0).random(4 * N_CELLS) < 0.15
    assert "Doublet-like library sizes" in found(cells(size=1.0 + twice))


@pytest.mark.filterwarnings("ignore:.*is read as combinations")
def test_parts_that_occur_only_together_are_not_told_apart() -> None:
    caution = found(cells(labels=["control", "A+B", "C", "C+D"]))["Not told apart"]
    assert caution.text.startswith("A, B occur only together")
    assert set(caution.conditions) == {"A", "B", "A+B"}
    assert "Not told apart" not in found(cells(labels=["control", "A+B", "B+C", "A+C"]))
    both = found(cells(labels=["control", "A+B", "B+C", "C+D", "A+D"]))["Not told apart"]
    assert set(both.conditions) >= {"A", "B", "C", "D"}  # the sums of two pairs are equal
