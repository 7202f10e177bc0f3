"""A screen: what AnnData held, whatever its form, and the same under a model's names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from helpers.screens import make_adata
from samsvae import InputError, Screen

FORMS = [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]
Source = Callable[[AnnData, Path], Screen]


def in_memory(adata: AnnData, _: Path) -> Screen:
    return Screen.from_anndata(adata)


def of_a_view(adata: AnnData, _: Path) -> Screen:
    return Screen.from_anndata(adata[::-2])


def of_a_layer(adata: AnnData, _: Path) -> Screen:
    adata.layers["raw"], adata.X = adata.X, np.log1p(adata.X)
    return Screen.from_anndata(adata, layer="raw")


def of_a_file(adata: AnnData, path: Path) -> Screen:
    adata.write_h5ad(path)
    return samsvae.read_h5ad(path)


def of_a_view_of_a_file(adata: AnnData, path: Path) -> Screen:
    adata.write_h5ad(path)
    backed = ad.read_h5ad(path, backed="r")
    try:
        return Screen.from_anndata(backed[::3])
    finally:
        backed.file.close()


def of_a_layer_of_a_file(adata: AnnData, path: Path) -> Screen:
    adata.layers["raw"], adata.X = adata.X, np.log1p(adata.X)
    adata.write_h5ad(path)
    return samsvae.read_h5ad(str(path), layer="raw")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "source",
    [in_memory, of_a_view, of_a_layer, of_a_file, of_a_view_of_a_file, of_a_layer_of_a_file],
)
def test_any_form_gives_the_same_counts(
    adata: AnnData, tmp_path: Path, form: Callable[[np.ndarray], object], source: Source
) -> None:
    table = adata.to_df()
    adata.X = form(adata.X)
    screen = source(adata, tmp_path / "screen.h5ad")
    assert len(screen) >= 80
    assert isinstance(screen.counts, sp.csr_matrix)
    assert screen.counts.dtype == np.uint8
    assert screen.genes == tuple(table.columns)
    np.testing.assert_array_equal(screen.counts.toarray(), table.loc[screen.cells])
    np.testing.assert_array_equal(screen.library_size, table.loc[screen.cells].sum(axis=1))
    labels = adata.obs["perturbation"].astype(str)[screen.cells].replace("B+A", "A+B")
    assert list(np.array(screen.condition_names)[screen.condition]) == list(labels)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(1, "u1"), (255, "u1"), (256, "u2"), (65_535, "u2"), (2**31, "u4")],
)
def test_counts_are_of_the_smallest_type_that_holds_them(largest: int, dtype: str) -> None:
    """Of so many cells that they are read in several blocks, one of which has the largest."""
    adata = make_adata(n_cells=9000, n_genes=5)
    adata.X = np.minimum(adata.X, 1).astype(np.float64)
    adata.X[5000, 4] = largest
    screen = Screen.from_anndata(adata)
    assert screen.counts.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(screen.counts.toarray(), adata.X)


def test_explicit_zeros_are_left_out_and_the_data_unchanged(adata: AnnData) -> None:
    matrix = sp.csr_matrix(adata.X)
    matrix.data[::36] = 0
    adata.X = matrix.copy()
    screen = Screen.from_anndata(adata)
    assert screen.counts.nnz == np.count_nonzero(matrix.toarray()) < matrix.nnz
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(adata.X, name), getattr(matrix, name))


@pytest.mark.parametrize("kind", ["category", "object", "string", "int", "bool"])
def test_labels_of_any_type(kind: str) -> None:
    control, name = {"int": (7, 12), "bool": (False, True)}.get(kind, ("none", "KLF1"))
    adata = make_adata(n_cells=40, labels=(str(control), str(name)))
    label = adata.obs["perturbation"]
    adata.obs["target"] = label == "True" if kind == "bool" else label.astype(kind)
    screen = Screen.from_anndata(adata, perturbation_key="target", control=control)
    assert screen.perturbations == (str(name),)
    assert screen.conditions == (str(control), str(name))
    np.testing.assert_array_equal(screen.is_control, label == str(control))
    assert list(screen.control.cells) == list(adata.obs_names[label == str(control)])


def test_another_control_and_separator(adata: AnnData) -> None:
    adata.obs["perturbation"] = adata.obs["perturbation"].str.replace("+", " & ")
    with pytest.warns(match="perturbations that look like control: 'control'; .*control=.'C', 'co"):
        screen = Screen.from_anndata(adata, control="C", separator="&")
    assert screen.perturbations == ("A", "B", "control")
    assert screen.conditions == ("C", "A", "A&B", "B", "control")


def test_control_as_a_part_is_no_perturbation(adata: AnnData) -> None:
    adata.obs["perturbation"] = adata.obs["perturbation"].replace("B+A", "control+A")
    screen = Screen.from_anndata(adata)
    assert screen.perturbations == ("A", "B", "C")
    assert screen.conditions == ("control", "A", "B", "C")
    assert len(screen.of("A")) == 2 * len(screen.of("B")) == 96


def test_perturbations_per_cell(adata: AnnData, screen: Screen) -> None:
    expected = adata.obs["perturbation"].map({"control": 0, "A": 1, "B": 1, "C": 1, "B+A": 2})
    np.testing.assert_array_equal(np.diff(screen.dosage.indptr), expected)
    np.testing.assert_array_equal(screen.cells_per_perturbation, [96, 96, 48])
    np.testing.assert_array_equal(screen.of("A").cells_per_perturbation, [48, 0, 0])


def test_numeric_dosage(adata: AnnData) -> None:
    adata = adata[adata.obs["perturbation"] != "B+A"].copy()
    dose = np.linspace(0.5, 9, 4)[np.arange(len(adata)) % 4]
    adata.obs["dose"] = np.where(adata.obs["perturbation"] == "control", np.nan, dose)
    screen = Screen.from_anndata(adata, dosage_key="dose")
    received = screen.dosage.toarray()
    for name, column in zip(screen.perturbations, received.T, strict=True):
        expected = np.where(adata.obs["perturbation"] == name, dose, 0)
        np.testing.assert_array_equal(column, expected.astype(np.float32))


def test_dosage_per_perturbation_in_the_order_of_the_label(adata: AnnData) -> None:
    dose = {"control": None, "A": "1", "B": "0", "C": "3.5", "B+A": "0.5+2"}
    adata.obs["dose"] = adata.obs["perturbation"].map(dose)
    screen = Screen.from_anndata(adata, dosage_key="dose")
    rows = {"control": [0, 0, 0], "A": [1, 0, 0], "B": [0, 0, 0], "C": [0, 0, 3.5]}
    expected = [({**rows, "B+A": [2, 0.5, 0]})[label] for label in adata.obs["perturbation"]]
    np.testing.assert_array_equal(screen.dosage.toarray(), expected)
    assert screen.conditions == ("control", "A", "A@2+B@0.5", "C@3.5")
    assert len(screen.of("B@0.5+A@2")) == 48
    assert len(screen.control) == 96  # at dose 0 nothing was received


def test_batches(adata: AnnData) -> None:
    screen = Screen.from_anndata(adata, batch_key="batch")
    assert screen.registry.batches == (("one",), ("two",))
    assert list(np.array(screen.registry.batch_names)[screen.batch]) == list(adata.obs["batch"])
    without = Screen.from_anndata(adata)
    assert without.registry.batches == ()
    assert not without.batch.any()


def test_library_sizes(adata: AnnData) -> None:
    adata.obs["total"] = adata.X.sum(1) + (np.arange(240) % 3)
    screen = Screen.from_anndata(adata, library_size_key="total")
    np.testing.assert_array_equal(screen.library_size, adata.obs["total"])
    assert not screen.registry.own_library_size
    assert Screen.from_anndata(adata).registry.own_library_size


def test_parts_of_the_split(adata: AnnData, screen: Screen) -> None:
    for name in ("train", "valid", "test"):
        part = getattr(screen, name)
        rows = adata.obs["split"] == name
        assert list(part.cells) == list(adata.obs_names[rows])
        np.testing.assert_array_equal(part.counts.toarray(), adata.X[rows])
        assert part.registry is screen.registry


def test_subset_has_its_own_conditions_and_all_names(screen: Screen) -> None:
    subset = screen[np.isin(screen.condition, [0, 2])]
    assert subset.conditions == ("control", "A+B")
    assert subset.perturbations == screen.perturbations == ("A", "B", "C")
    assert subset.condition_names == screen.condition_names


def test_of_a_condition(adata: AnnData, screen: Screen) -> None:
    both = adata.obs_names[adata.obs["perturbation"] == "B+A"]
    assert list(screen.of("A+B").cells) == list(screen.of("B+A").cells) == list(both)
    assert screen.of("control").is_control.sum() == 48
    assert len(screen.of("A+C")) == 0
    with pytest.raises(InputError, match="no perturbation 'D': there are 'A', 'B', 'C'"):
        screen.of("D")


def test_repr(adata: AnnData, screen: Screen) -> None:
    with_batches = Screen.from_anndata(adata, batch_key="batch")
    median = np.median(adata.X.sum(1))
    assert repr(with_batches).splitlines() == [
        "Screen: 240 cells x 12 genes",
        "  3 perturbations, 5 conditions (1 combinations), 48 control cells",
        "  2 batches",
        f"  median library size {median:,.0f} counts",
    ]
    assert "train 150" in repr(screen)
    assert "0 cells" in repr(screen[:0])


def test_summary(adata: AnnData, screen: Screen) -> None:
    conditions = ["control", "A", "A+B", "B", "C"]
    expected = pd.DataFrame(
        {"train": 30, "valid": 9, "test": 9, "total": 48}, index=pd.Index(conditions)
    )
    pd.testing.assert_frame_equal(screen.summary(), expected, check_names=False)
    assert screen.summary().index.name == "condition"
    assert list(screen.of("A").valid.summary().loc["A"]) == [9, 9]
    whole = Screen.from_anndata(adata[:7]).summary()
    assert whole["cells"].to_dict() == {"control": 2, "A": 2, "A+B": 1, "B": 1, "C": 1}


def test_to_anndata_and_back(adata: AnnData) -> None:
    adata.obs["total"] = adata.X.sum(1) * 2
    keys = {"batch_key": "batch", "split_key": "split"}
    screen = Screen.from_anndata(adata, library_size_key="total", **keys)
    back = Screen.from_anndata(screen.to_anndata(), library_size_key="library_size", **keys)
    assert back.registry == screen.registry
    assert back.condition_names == screen.condition_names
    assert list(back.cells) == list(screen.cells)
    assert back.counts.dtype == screen.counts.dtype
    assert (back.counts != screen.counts).nnz == (back.dosage != screen.dosage).nnz == 0
    for name in ("library_size", "condition", "batch", "split"):
        np.testing.assert_array_equal(getattr(back, name), getattr(screen, name))


def test_doses_to_anndata_and_back(adata: AnnData) -> None:
    adata.obs["dose"] = adata.obs["perturbation"].map(lambda label: "2+2" if "+" in label else "2")
    screen = Screen.from_anndata(adata, dosage_key="dose")
    assert Screen.from_anndata(screen.to_anndata()).perturbations == screen.perturbations


def test_the_data_are_left_as_they_were(adata: AnnData) -> None:
    stored = sp.csr_matrix(adata.X)
    stored.data[::7] = 0
    adata.X = stored
    before = adata.X.toarray()
    Screen.from_anndata(adata)
    assert np.array_equal(adata.X.toarray(), before)
    assert adata.X.nnz == stored.nnz


@pytest.fixture
def with_symbols(adata: AnnData) -> Screen:
    adata.var["symbol"] = [f"symbol {name}" for name in adata.var_names]
    return Screen.from_anndata(adata, gene_key="symbol")


@pytest.mark.parametrize("positions", [[7, 0, 11], list(range(12))[::-1]], ids=["some", "permuted"])
def test_symbols_stay_with_their_genes(with_symbols: Screen, positions: list[int]) -> None:
    counts = with_symbols.counts.toarray()
    some = with_symbols.with_genes(np.array(positions))
    assert some.genes == tuple(f"g{i}" for i in positions)
    assert some.registry.symbols == tuple(f"symbol {gene}" for gene in some.genes)
    assert list(some.registry.var["symbol"]) == list(some.registry.symbols)
    assert list(some.registry.var.index) == list(some.genes)
    for symbol, position in some.registry.position_of_target.items():
        assert symbol.removeprefix("symbol ") == some.genes[position]
    np.testing.assert_array_equal(some.counts.toarray(), counts[:, positions])
    np.testing.assert_array_equal(some.library_size, counts[:, positions].sum(1))


def test_symbols_cannot_be_left_behind(with_symbols: Screen) -> None:
    with pytest.raises(InputError, match="there are 12 symbols for 3 genes"):
        dataclasses.replace(with_symbols.registry, genes=("g0", "g1", "g2"))


def test_symbols_are_written_and_read(with_symbols: Screen) -> None:
    again = Screen.from_anndata(with_symbols.to_anndata(), gene_key="symbol")
    assert again.registry.symbols == with_symbols.registry.symbols
    bare = dataclasses.replace(with_symbols.registry, symbols=())
    assert list(bare.var.columns) == []
