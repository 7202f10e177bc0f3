"""Tables as AnnData: every number comes back, and scanpy finds what it looks for."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from samsvae import InputError
from samsvae.export import as_anndata
from samsvae.export import tables as wide
from samsvae.storage.tables import write_h5ad


def effects(n_conditions: int = 3, n_genes: int = 5) -> pd.DataFrame:
    """Return a table as `discoveries` gives it, its lines in no order."""
    rng = np.random.default_rng(0)
    conditions = [f"A{i:03d}+B" for i in range(n_conditions)]
    genes = [f"g{i}" for i in range(n_genes)]
    index = pd.MultiIndex.from_product([conditions, genes], names=["condition", "gene"])
    table = pd.DataFrame(index=index).reset_index().astype("category")
    for name in ("estimate", "sd", "lfsr", "q_value"):
        table[name] = rng.random(len(table)) + 0.1
    table["estimate"] -= 0.6
    table["n_cells"] = np.repeat(np.arange(n_conditions) + 40, n_genes)
    return table.sample(frac=1, random_state=0)


def test_columns_are_in_the_order_of_genes_whatever_that_of_rows() -> None:
    table = effects()
    genes = list(dict.fromkeys(table["gene"]))
    table["gene"] = pd.Categorical(table["gene"], genes)
    table["on_target"] = table["gene"] == genes[0]
    shuffled = table.iloc[::-1]
    found, expected = as_anndata(shuffled), as_anndata(table)
    assert list(found.var_names) == genes
    np.testing.assert_array_equal(found[expected.obs_names].X, expected.X)
    assert (expected.layers["on_target"] == np.eye(len(genes))[0]).all()


def test_every_number_stands_where_it_belongs(tmp_path: Path) -> None:
    table = effects()
    table.attrs["scale"] = "log"
    found = as_anndata(table)
    write_h5ad(tmp_path / "e.h5ad", found)
    back = ad.read_h5ad(tmp_path / "e.h5ad")
    assert back.shape == (3, 5)
    assert set(back.layers) == {"sd", "lfsr", "q_value"}
    assert back.uns["samsvae"] == {"X": "estimate", "scale": "log"}
    for line in table.itertuples():
        own = back[line.condition, line.gene]
        assert own.X[0, 0] == line.estimate
        assert own.layers["lfsr"][0, 0] == line.lfsr
        assert own.obs["n_cells"].iloc[0] == line.n_cells


def test_pairs_that_are_left_out_are_nan() -> None:
    table = effects()
    kept = as_anndata(table[(table["condition"] != "A001+B") | (table["gene"] == "g2")])
    row = np.flatnonzero(kept.obs_names == "A001+B")[0]
    others = kept.var_names != "g2"
    assert np.isnan(kept.X[row, others]).all()
    assert np.isnan(kept.layers["sd"][row, others]).all()
    assert np.isfinite(kept[:, "g2"].X).all()
    assert as_anndata(table[:0]).shape == (0, 0)


def test_sgrnas_are_rows_of_their_own() -> None:
    one = effects()
    names = one["condition"].astype(str)
    found = as_anndata(pd.concat([one.assign(sgrna=names + g) for g in ("g1", "g2")]))
    assert sorted(found.obs_names)[:2] == ["A000+Bg1", "A000+Bg2"]
    assert found.obs.loc["A001+Bg2", "condition"] == "A001+B"
    shared = effects().assign(sgrna="g1")  # one sgRNA in every condition
    assert sorted(as_anndata(shared).obs_names)[0] == "A000+B_g1"


def test_programs_with_what_moves_them() -> None:
    table = effects().rename(columns={"condition": "dimension", "estimate": "loading"})
    moved = pd.DataFrame(
        {"perturbations": [["P", "Q"]], "shifts": [[2.0, -1.5]], "share": [0.5]}, index=["A002+B"]
    )
    table = table.rename(columns={"sd": "error"})
    found = as_anndata(table[["dimension", "gene", "loading", "error"]], obs=moved)
    assert list(found.layers) == ["error"]
    assert found.obs.loc["A002+B", "perturbations"] == "P, Q"
    assert found.obs.loc["A002+B", "shifts"] == "2, -1.5"
    assert np.isnan(found.obs.loc["A000+B", "share"])
    ranked = found.uns["rank_genes_groups"]
    assert "pvals" not in ranked
    own = table[table["dimension"] == "A001+B"]
    own = own.assign(score=own["loading"] / own["error"]).sort_values("score", ascending=False)
    assert list(ranked["names"]["A001+B"]) == list(own["gene"])
    np.testing.assert_allclose(ranked["scores"]["A001+B"], own["score"])


def test_cells_that_respond_are_sparse(tmp_path: Path) -> None:
    cells = pd.DataFrame(
        {
            "cell": ["c1", "c2", "c2", "c3"],
            "condition": pd.Categorical(["A", "A+B", "A+B", "B"]),
            "perturbation": pd.Categorical(["A", "A", "B", "B"]),
            "log_odds": [2.0, -1.0, 0.0, 3.0],
            "probability": [0.9, 0.3, 0.5, 0.95],
        }
    )
    found = as_anndata(cells)
    write_h5ad(tmp_path / "c.h5ad", found)
    back = ad.read_h5ad(tmp_path / "c.h5ad")
    assert sp.issparse(back.X)
    assert back.X.nnz == 4
    np.testing.assert_array_equal(back.X.toarray(), [[0.9, 0], [0.3, 0.5], [0, 0.95]])
    np.testing.assert_array_equal(back.layers["log_odds"].toarray(), [[2, 0], [-1, 0], [0, 3]])
    np.testing.assert_array_equal(back.obs["probability"], [0.9, np.nan, 0.95])
    assert list(back.obs["condition"]) == ["A", "A+B", "B"]
    assert "rank_genes_groups" not in back.uns


def test_as_many_groups_as_a_file_can_hold(tmp_path: Path) -> None:
    found = as_anndata(effects(wide._GROUPS, 3))
    write_h5ad(tmp_path / "many.h5ad", found)
    back = ad.read_h5ad(tmp_path / "many.h5ad").uns["rank_genes_groups"]
    assert len(back["names"].dtype.names) == wide._GROUPS
    assert (
        back["pvals"]["A007+B"].tolist()
        == found.uns["rank_genes_groups"]["pvals"]["A007+B"].tolist()
    )
    assert "rank_genes_groups" not in as_anndata(effects(wide._GROUPS + 1, 3)).uns


def test_scanpy_reads_the_ranks() -> None:
    scanpy = pytest.importorskip("scanpy")
    table = effects()
    found = as_anndata(table)
    own = scanpy.get.rank_genes_groups_df(found, group="A001+B").set_index("names")
    expected = table[table["condition"] == "A001+B"].set_index("gene").loc[own.index.astype(str)]
    np.testing.assert_allclose(own["logfoldchanges"], expected["estimate"])
    np.testing.assert_allclose(own["scores"], expected["estimate"] / expected["sd"])
    np.testing.assert_allclose(own["pvals_adj"], expected["q_value"])
    assert own["scores"].is_monotonic_decreasing


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match=r"condition 'A000\+B' and gene 'g0' stand .* once"):
        as_anndata(pd.concat([effects(1, 1), effects(1, 1)]))
    with pytest.raises(InputError, match="cannot be made wide: expected condition"):
        as_anndata(effects().drop(columns="gene"))
    with pytest.raises(InputError, match="and a column of numbers"):
        as_anndata(effects()[["condition", "gene", "n_cells"]])
