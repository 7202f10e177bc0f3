"""Screens and tables get a model's genes, perturbations and batches by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from helpers.screens import make_adata
from samsvae import InputError, Screen
from samsvae.data.alignment import align_genes, align_screen, align_table


def test_matched_to_its_own_names_is_itself(screen: Screen) -> None:
    assert align_screen(screen, screen.registry) is screen


def test_matched_by_gene_name(adata: AnnData, screen: Screen) -> None:
    genes = ["g11", "g5", "g0"]
    model = Screen.from_anndata(adata[:, genes]).registry
    with pytest.warns(UserWarning, match="^9 genes of the data are ignored"):
        matched = align_screen(screen, model)
    assert matched.registry is model
    np.testing.assert_array_equal(matched.counts.toarray(), adata[:, genes].X)
    np.testing.assert_array_equal(matched.library_size, adata[:, genes].X.sum(1))
    np.testing.assert_array_equal(matched.split, screen.split)
    assert matched.counts.has_sorted_indices


def test_matched_library_sizes_of_a_larger_library_are_kept(adata: AnnData) -> None:
    adata.obs["total"] = adata.X.sum(1) * 2
    screen = Screen.from_anndata(adata, library_size_key="total")
    model = Screen.from_anndata(adata[:, 6:], library_size_key="total").registry
    with pytest.warns(UserWarning, match="^6 genes of the data are ignored"):
        matched = align_screen(screen, model)
    np.testing.assert_array_equal(matched.library_size, adata.obs["total"])


def test_matched_by_perturbation_name(screen: Screen) -> None:
    model = Screen.from_anndata(make_adata(labels=("none", "A0", "C", "B", "A")), control="none")
    some = screen[screen.condition != screen.condition_names.index("A")]
    matched = align_screen(some, model.registry)
    assert matched.perturbations == ("A", "A0", "B", "C")
    assert matched.conditions == ("none", "A+B", "B", "C")
    expected = np.insert(some.dosage.toarray(), 1, 0, axis=1)
    np.testing.assert_array_equal(matched.dosage.toarray(), expected)
    assert list(matched.of("B+A").cells) == list(screen.of("A+B").cells)


def test_matched_where_the_model_lacks_only_absent_perturbations(adata: AnnData) -> None:
    known = (adata.obs["perturbation"] != "C").to_numpy()
    model = Screen.from_anndata(adata[known]).registry
    matched = align_screen(Screen.from_anndata(adata)[known], model)
    assert matched.perturbations == ("A", "B")
    np.testing.assert_array_equal(matched.cells_per_perturbation, [96, 96])


def test_matched_by_batch_name(adata: AnnData) -> None:
    model = Screen.from_anndata(adata, batch_key="batch").registry
    second = adata[adata.obs["batch"] == "two"]
    matched = align_screen(Screen.from_anndata(second, batch_key="batch"), model)
    np.testing.assert_array_equal(matched.batch, np.ones(len(second)))
    without = align_screen(matched, Screen.from_anndata(adata).registry)
    assert not without.batch.any()


def test_symbols_go_with_their_genes(screen: Screen) -> None:
    symbols = tuple(name.upper() for name in screen.genes)
    named = replace(screen, registry=replace(screen.registry, symbols=symbols))
    aligned = align_genes(named, screen.genes[::-1])
    assert aligned.registry.symbols == symbols[::-1]
    assert aligned.registry.position_of_target["G0"] == len(symbols) - 1


def test_a_table_by_name_in_any_order() -> None:
    table = pd.DataFrame(np.arange(6).reshape(2, 3), ["A", "B"], ["x", "y", "z"])
    aligned = align_table(table.iloc[:, ::-1], genes=["x", "y", "z"], conditions=["B", "A"])
    pd.testing.assert_frame_equal(aligned, table.iloc[::-1])
    with pytest.warns(UserWarning, match="^1 genes of the data are ignored"):
        some = align_table(table, genes=["z", "x"], conditions=["B"])
    assert some.to_numpy().tolist() == [[5, 3]]


def test_what_a_table_lacks_is_named() -> None:
    table = pd.DataFrame(np.zeros((2, 2)), ["A", "B"], ["x", "y"])
    with pytest.raises(InputError, match=r"^the data lack 1 of the model's 2 genes: 'w'$"):
        align_table(table, genes=["x", "w"])
    with pytest.raises(InputError, match=r"^the data lack 1 of the model's 1 conditions: 'C'$"):
        align_table(table, conditions=["C"])
