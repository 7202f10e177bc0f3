"""Counts, wherever a file keeps them, and out of normalised values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.screens import make_adata
from samsvae import InputError, Screen, counts_from_normalised

take = Screen.from_anndata


@pytest.fixture
def logged(adata: AnnData) -> AnnData:
    """Return log values in X, and counts of more genes in raw."""
    logged = adata[:, :10].copy()
    logged.raw, logged.X = adata, np.log1p(adata.X[:, :10])
    return logged


def test_raw_is_named_and_read(adata: AnnData, logged: AnnData) -> None:
    with pytest.raises(InputError, match=r"adata\.raw looks like counts: give layer='raw'"):
        take(logged)
    screen = take(logged, layer="raw")
    assert screen.genes == tuple(adata.var_names)
    np.testing.assert_array_equal(screen.counts.toarray(), adata.X)


def test_a_layer_called_raw_comes_first(adata: AnnData, logged: AnnData) -> None:
    logged.layers["raw"] = adata.X[:, :10]
    assert len(take(logged, layer="raw").genes) == 10


def test_raw_of_a_file(logged: AnnData, adata: AnnData, tmp_path) -> None:
    logged.write_h5ad(tmp_path / "x.h5ad")
    screen = Screen.open(tmp_path / "x.h5ad", layer="raw")
    np.testing.assert_array_equal(screen.counts.toarray(), adata.X)


def test_without_x_the_layer_of_counts_is_taken(adata: AnnData, tmp_path) -> None:
    counts, adata.layers["scaled"] = adata.X, np.sqrt(adata.X)
    adata.layers["n"], adata.X = counts, None
    with pytest.warns(match="adata.X is empty: layer 'n' is taken"):
        screen = take(adata)
    np.testing.assert_array_equal(screen.counts.toarray(), counts)
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.warns(match="adata.X is empty: layer 'n' is taken"):
        assert (Screen.open(tmp_path / "x.h5ad").counts != screen.counts).nnz == 0


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_counts_that_were_computed_are_rounded_with_a_note(kind: Callable) -> None:
    adata = make_adata()
    counts = adata.X.copy()
    adata.X = kind(np.expm1(np.log1p(counts.astype(np.float64))))
    with pytest.warns(match="up to .*e-1[45] from an integer: they are rounded"):
        screen = take(adata)
    np.testing.assert_array_equal(screen.counts.toarray(), counts)


@pytest.mark.parametrize("value", [1.01, 0.5, 1e-3, 3.002])
def test_what_is_not_whole_is_not_rounded(adata: AnnData, value: float) -> None:
    """A share of a cell's counts is near 0, and is no count of 0."""
    adata.X = adata.X.astype(np.float64)
    adata.X[3, 2] = value
    with pytest.raises(InputError, match="holds values that are not whole numbers"):
        take(adata)


NORMALISED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "x": lambda x: x,
    "log(1 + x)": np.log1p,
    "log2(1 + x)": lambda x: np.log2(1 + x),
}


@pytest.mark.parametrize("kind", NORMALISED)
@pytest.mark.parametrize("to", [1e4, 1e6, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalised_values_are_turned_back(kind: str, to: float | None, dtype: type) -> None:
    adata = make_adata()
    counts = adata.X.copy()
    size = counts.sum(1, keepdims=True) / (to or np.median(counts.sum(1)))
    adata.X = sp.csr_matrix(NORMALISED[kind](counts / size).astype(dtype))
    with pytest.raises(InputError, match=r"turned back exactly: .*counts_from_normalised\(adata\)"):
        take(adata)
    back = counts_from_normalised(adata)
    assert back.uns["turned_back"] == kind
    np.testing.assert_array_equal(back.X.toarray(), counts)
    np.testing.assert_array_equal(take(back).counts.toarray(), counts)


@pytest.mark.parametrize("kind", NORMALISED)
@pytest.mark.parametrize(("low", "high"), [(3, 9), (9, 90), (30, 4000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dense_panel_comes_back(kind: str, low: int, high: int, dtype: type) -> None:
    """Logarithms of the counts themselves need no small count in each cell."""
    counts = np.random.default_rng(0).integers(low, high, (500, 5)).astype(float)
    back = counts_from_normalised(AnnData(NORMALISED[kind](counts).astype(dtype)))
    np.testing.assert_array_equal(back.X.toarray(), counts)
    assert back.uns["turned_back"] == kind


def test_cells_of_even_counts_are_not_halved() -> None:
    counts = np.array([[2.0, 4, 6], [1, 2, 5], [3, 9, 3]])
    back = counts_from_normalised(AnnData(np.log1p(counts)))
    np.testing.assert_array_equal(back.X.toarray(), counts)


def test_a_panel_without_small_counts_of_other_sizes_is_ambiguous() -> None:
    counts = np.random.default_rng(0).integers(30, 90, (60, 5)).astype(float)
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    with pytest.raises(InputError, match="ambiguous: a cell has counts above 8 of every gene"):
        counts_from_normalised(AnnData(values))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2000), min_size=4, max_size=4), min_size=1, max_size=5),
    st.floats(10, 1e6),
)
@example([[0, 0, 0, 2]], 303653.0)  # of one cell, too large to tell whole numbers
def test_any_counts_come_back_up_to_a_common_factor(rows: list[list[int]], to: float) -> None:
    counts = np.array(rows, float)
    counts[:, 0] += 1  # none is empty
    counts[0, :2] = 1, 1
    factor = np.gcd.reduce(counts.astype(int), axis=1)[:, None]
    smallest = np.where(counts > 0, counts, np.inf).min(1, keepdims=True) / factor
    values = np.log1p(to * counts / counts.sum(1, keepdims=True))
    if (smallest > 8).any():
        with pytest.raises(InputError, match="cannot be turned back"):
            counts_from_normalised(AnnData(values))
    else:
        np.testing.assert_array_equal(
            counts_from_normalised(AnnData(values)).X.toarray(), counts / factor
        )


@pytest.mark.parametrize(
    "spoil",
    [np.sqrt, lambda x: x - x.mean(0), lambda x: np.log1p(x) + 0.01 * np.arange(x.shape[1])],
)
def test_what_cannot_be_turned_back_is_refused(adata: AnnData, spoil: Callable) -> None:
    adata.X = spoil(adata.X)
    with pytest.raises(InputError, match="cannot be turned back into counts: no size per cell"):
        counts_from_normalised(adata)


def test_a_later_cell_that_cannot_be_turned_back_is_told() -> None:
    adata = make_adata(n_cells=600)
    adata.X = np.log1p(adata.X / adata.X.sum(1, keepdims=True))
    adata.X[500] = np.sqrt(np.arange(2, 14))
    with pytest.raises(InputError, match=r"some of cells 0 to 4095 are not"):
        counts_from_normalised(adata)


def test_a_layer_can_be_turned_back(adata: AnnData) -> None:
    adata.layers["log"] = np.log1p(adata.X / adata.X.sum(1, keepdims=True))
    np.testing.assert_array_equal(counts_from_normalised(adata, layer="log").X.toarray(), adata.X)
    with pytest.raises(InputError, match="no layer 'lgo': the nearest is 'log'"):
        counts_from_normalised(adata, layer="lgo")
