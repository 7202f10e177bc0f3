"""Chunks that a zarr store lost, and those that it never had."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata import AnnData

from helpers.screens import make_adata
from samsvae import InputError, Screen

N = 240


def store(folder: Path, adata: AnnData, **chunks: int) -> Path:
    """Write a zarr store, some of whose arrays (a__b is a/b) are in chunks of so many values."""
    path = folder / "x.zarr"
    with warnings.catch_warnings(action="ignore"):  # of what anndata will write next year
        adata.write_zarr(path)
    group = zarr.open_group(path, mode="r+")
    for name, size in chunks.items():
        place = name.replace("__", "/")
        old = group[place]
        values, attributes = old[...], dict(old.attrs)
        sizes = (size, *values.shape[1:])
        if values.dtype.kind in "OT":
            new = group.create_array(
                place, shape=len(values), dtype=str, chunks=sizes, overwrite=True
            )
            new[:] = values.astype(object)
        else:
            new = group.create_array(place, data=values, chunks=sizes, overwrite=True)
        new.attrs.update(attributes)
    with warnings.catch_warnings(action="ignore"):
        zarr.consolidate_metadata(path)
    return path


def lose(path: Path, array: str, chunk: int) -> None:
    """Remove a chunk of an array, as a copy that was interrupted does."""
    place = f"{array}/{chunk}" if (path / f"{array}/.zarray").exists() else f"{array}/c/{chunk}"
    found = [
        one for one in (path / place, path / f"{place}/0", path / f"{place}.0") if one.is_file()
    ]
    (file,) = found
    file.unlink()


def screen_of(path: Path, **settings) -> tuple[Screen, list[str]]:
    """Return the screen, and what is told of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        screen = Screen.open(path, **settings)
    return screen, [str(one.message) for one in caught]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_whole_store_has_no_missing_chunks(tmp_path: Path, in_memory: bool) -> None:
    adata = make_adata()
    adata.X = sp.csr_matrix(adata.X)
    sizes = {"X__data": 900, "X__indices": 900, "X__indptr": 100, "obs___index": 60}
    path = store(tmp_path, adata, **sizes, obs__perturbation__codes=60)
    screen, told = screen_of(path, batch_key="batch", split_key="split", in_memory=in_memory)
    assert told == []
    assert len(screen) == N


def test_lost_codes_are_counted_and_told(tmp_path: Path) -> None:
    path = store(tmp_path, make_adata(), obs__perturbation__codes=60)
    lose(path, "obs/perturbation/codes", 1)
    _, (told,) = screen_of(path)
    assert told.startswith(
        "1 of 4 chunks of obs['perturbation'] are not in the store, and are read"
    )
    assert "read as 'A': " in told  # the first category
    assert "cannot be told whether these were lost; compare with the source" in told


def test_lost_numbers_are_counted_and_told(tmp_path: Path) -> None:
    adata = make_adata(labels=("control", "A", "B"))
    adata.obs["dose"] = 1.0
    path = store(tmp_path, adata, obs__dose=60)
    lose(path, "obs/dose", 3)
    _, told = screen_of(path, dosage_key="dose")
    assert any(
        "1 of 4 chunks of obs['dose'] are not in the store, and are read as 0" in t for t in told
    )


def test_lost_dense_counts_are_counted_and_told(tmp_path: Path) -> None:
    path = store(tmp_path, make_adata(), X=60)
    lose(path, "X", 2)
    screen, told = screen_of(path, drop_empty_cells=True)
    assert len(screen) == N - 60
    assert "1 of 4 chunks of adata.X are not in the store, and are read as 0" in told[0]


@pytest.mark.parametrize(
    ("array", "what"),
    [("data", "the values of adata.X"), ("indices", "indices of adata.X")],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_lost_parts_of_a_sparse_matrix(
    array: str, what: str, tmp_path: Path, in_memory: bool
) -> None:
    adata = make_adata()
    adata.X = sp.csr_matrix(adata.X)
    path = store(tmp_path, adata, X__data=900, X__indices=900)
    lose(path, f"X/{array}", 1)
    with pytest.raises(InputError, match=f"1 of 3 chunks of {what} are missing: copy or write"):
        Screen.open(path, in_memory=in_memory)


def test_lost_starts_of_rows(tmp_path: Path) -> None:
    adata = make_adata()
    adata.X = sp.csr_matrix(adata.X)
    path = store(tmp_path, adata, X__indptr=100)
    lose(path, "X/indptr", 0)
    with pytest.raises(InputError, match=r"1 of 3 chunks of indptr of adata\.X are missing"):
        Screen.open(path)


@pytest.mark.parametrize(
    ("array", "what"),
    [("_index", "the names of obs"), ("perturbation/categories", r"the categories of obs\['pert")],
)
def test_lost_names(array: str, what: str, tmp_path: Path) -> None:
    path = store(tmp_path, make_adata(), obs___index=60, obs__perturbation__categories=2)
    lose(path, f"obs/{array}", 1)
    with pytest.raises(InputError, match=f"1 of . chunks of {what}.* are missing"):
        Screen.open(path)


def test_chunks_that_a_store_never_had(tmp_path: Path) -> None:
    """zarr writes no chunk of zeros: a single batch, entries of the first gene alone, a mask."""
    adata = make_adata()
    adata.obs["batch"] = "one"
    adata.obs["plate"] = pd.array(1 + np.arange(N) // 60, "Int64")
    x = np.zeros_like(adata.X)
    x[:, 0] = 1 + np.arange(N) % 3
    adata.X = sp.csr_matrix(x)
    path = store(tmp_path, adata)
    screen, told = screen_of(path, batch_key=["batch", "plate"])
    assert told == []
    assert screen.counts.sum() == x.sum()
    assert len(screen.registry.batches) == 4
