"""Counts that stay in their file: the same numbers as from memory, and clear errors."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from anndata import AnnData, read_h5ad
from hypothesis import given
from hypothesis import strategies as st

import samsvae
from helpers.screens import make_adata
from samsvae import InputError, Screen
from samsvae.data import source as stored
from samsvae.data.alignment import align_screen
from samsvae.data.source import PrefetchedSource, StoredCounts
from samsvae.train.batches import BlockOrder


def sparse(adata: AnnData) -> AnnData:
    adata.X = sp.csr_matrix(adata.X)
    return adata


def in_layer(adata: AnnData) -> AnnData:
    adata.layers["counts"] = sp.csr_matrix(adata.X)
    adata.X = np.log1p(adata.X)
    return adata


def in_raw(adata: AnnData) -> AnnData:
    adata.raw = sparse(adata)
    return adata[:, :5].copy()


def rounded(adata: AnnData) -> AnnData:
    adata.X = sp.csr_matrix(adata.X * (1 + 1e-5))
    return adata


def halved(adata: AnnData) -> AnnData:
    adata.X = adata.X.astype(np.float16)
    return adata


KINDS: dict[str, tuple[Callable[[AnnData], AnnData], str, dict[str, Any]]] = {
    "sparse": (sparse, "screen.h5ad", {}),
    "dense": (lambda adata: adata, "screen.h5ad", {}),
    "half precision": (halved, "screen.h5ad", {}),
    "zarr": (sparse, "screen.zarr", {}),
    "dense zarr": (lambda adata: adata, "screen.zarr", {}),
    "layer": (in_layer, "screen.h5ad", {"layer": "counts"}),
    "layer in zarr": (in_layer, "screen.zarr", {"layer": "counts"}),
    "raw": (in_raw, "screen.h5ad", {"layer": "raw"}),
}


def written(adata: AnnData, path: Path) -> Path:
    if path.suffix == ".zarr":
        with warnings.catch_warnings():  # of what anndata will write next year
            warnings.simplefilter("ignore")
            adata.write_zarr(path)
    else:
        adata.write_h5ad(path, compression="gzip")
    return path


def aged(path: Path) -> Path:
    """Set the times of a store far back, so that any change to it shows: no clock is needed."""
    for folder, _, names in os.walk(path):
        for name in (*names, "."):
            os.utime(os.path.join(folder, name), (1, 1))
    return path


def both(path: Path, **settings: Any) -> tuple[Screen, Screen]:
    settings = {"split_key": "split"} | settings
    return Screen.open(path, **settings), Screen.open(path, in_memory=False, **settings)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read few cells at a time, so that there are several blocks."""
    monkeypatch.setattr(stored, "ROWS", 50)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", KINDS)
def test_a_screen_in_a_file_is_the_same(kind: str, tmp_path: Path) -> None:
    change, name, settings = KINDS[kind]
    memory, file = both(written(change(make_adata()), tmp_path / name), **settings)
    assert memory.is_in_memory
    assert not file.is_in_memory
    assert isinstance(file.counts, StoredCounts)
    for rows in (slice(None), [5, 3, 3, 200], np.asarray(memory.split == "test"), slice(7, 8), []):
        mine, other = memory[rows], file[rows]
        found = other.to_memory()
        assert found.is_in_memory
        np.testing.assert_array_equal(found.counts.toarray(), mine.counts.toarray())
        np.testing.assert_array_equal(other.counted, mine.counted)
        np.testing.assert_array_equal(other.unexpressed, mine.unexpressed)
        assert other.digest == mine.digest
    assert repr(file) == repr(memory)
    assert file.to_anndata().obs.equals(memory.to_anndata().obs)
    # Subsets of subsets, in any order.
    some, again = np.random.default_rng(0).permutation(240)[:90], [80, 2, 40]
    np.testing.assert_array_equal(
        file[some][again].to_memory().counts.toarray(), memory[some][again].counts.toarray()
    )


def test_whole_numbers_but_for_rounding(tmp_path: Path) -> None:
    path = written(rounded(make_adata()), tmp_path / "screen.h5ad")
    with pytest.warns(UserWarning, match="from an integer: they are rounded"):
        screen = Screen.open(path, in_memory=False)
    assert screen.to_memory().counts.dtype.kind == "u"
    np.testing.assert_array_equal(screen.to_memory().counts.toarray(), make_adata().X)


def test_a_backed_file_is_read_where_it_lies(tmp_path: Path) -> None:
    path = written(sparse(make_adata()), tmp_path / "screen.h5ad")
    screen = Screen.from_anndata(read_h5ad(path, backed="r"), in_memory=False)
    np.testing.assert_array_equal(screen.to_memory().counts.toarray(), make_adata().X)


def test_genes_are_matched_by_name(tmp_path: Path) -> None:
    memory, file = both(written(sparse(make_adata()), tmp_path / "screen.h5ad"))
    model = Screen.from_anndata(make_adata()[:, ["g7", "g0", "g11"]].copy())
    with pytest.warns(UserWarning, match="^9 genes of the data are ignored"):
        mine, other = (align_screen(one, model.registry) for one in (memory, file))
    np.testing.assert_array_equal(other.to_memory().counts.toarray(), mine.counts.toarray())
    np.testing.assert_array_equal(other.library_size, mine.library_size)


def test_another_process_opens_the_file_itself(tmp_path: Path) -> None:
    _, file = both(written(sparse(make_adata()), tmp_path / "screen.h5ad"))
    again = pickle.loads(pickle.dumps(file))
    assert again.digest == file.digest


sizes = st.integers(1, 300)


@given(n_cells=sizes, block=st.integers(1, 40), n_blocks=st.integers(1, 5), batch=sizes)
def test_blocks_take_each_cell_once_an_epoch(
    n_cells: int, block: int, n_blocks: int, batch: int
) -> None:
    order = BlockOrder(n_cells, seed=3, block=block, window=block * n_blocks)
    batch = min(batch, n_cells)
    n_steps = 2 * n_cells // batch + 2
    steps = np.concatenate([order.of_step(step, batch) for step in range(n_steps)])
    for epoch in (steps[:n_cells], steps[n_cells : 2 * n_cells]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n_cells))
    # Windows are what steps take, from any step on.
    for first in (0, 1, n_steps // 2):
        wanted, windows = steps[first * batch :], order.windows(first, batch)
        found = np.zeros(0, int)
        while len(found) < len(wanted):
            window = next(windows)
            assert len(window) <= block * n_blocks
            found = np.append(found, window)
        np.testing.assert_array_equal(found[: len(wanted)], wanted)


def test_each_cell_is_read_by_one_process_an_epoch() -> None:
    order = BlockOrder(230, seed=1, block=8, window=64)
    for first in (0, 3):
        streams = [order.windows(first, 30, slice(rank, None, 3)) for rank in range(3)]
        taken = [np.concatenate([next(one) for _ in range(12)]) for one in streams]
        for step in range(first, first + 8):
            rows = order.of_step(step, 30)
            for rank, stream in enumerate(taken):
                mine = rows[rank::3]
                place = (step - first) * 10
                np.testing.assert_array_equal(stream[place : place + 10], mine)


def test_a_window_holds_few_blocks() -> None:
    """What is read at once lies together: a window of four blocks has four runs."""
    order = BlockOrder(4096, seed=0, block=32, window=128)
    window = np.sort(next(order.windows(0, 64)))
    assert (np.diff(window) > 1).sum() <= 3
    epochs = [order.of_step(i, 4096) for i in range(2)]
    assert not np.array_equal(*epochs)


def test_cells_are_read_ahead_in_their_order(tmp_path: Path) -> None:
    memory, file = both(written(sparse(make_adata()), tmp_path / "screen.h5ad"))
    order = BlockOrder(240, seed=1, block=8, window=48)
    source = PrefetchedSource(file.counts, order.windows(5, 50))
    for step in range(5, 15):
        rows = order.of_step(step, 50)
        np.testing.assert_array_equal(source.rows(rows), memory.counts.toarray()[rows])
    with pytest.raises(ValueError, match="out of turn"):
        source.rows(order.of_step(3, 50))


REFUSED: dict[str, tuple[Callable[[AnnData, Path], Any], str]] = {
    "by columns": (
        lambda adata, path: Screen.open(
            written(AnnData(sp.csc_matrix(adata.X), obs=adata.obs), path), in_memory=False
        ),
        r"stored by columns.*write it by rows.*leave in_memory=False \(--on-disk\) out$",
    ),
    "in memory": (
        lambda adata, path: Screen.from_anndata(adata, in_memory=False),
        "leaves counts in an .h5ad, .h5mu or .zarr file.*or leave the setting out$",
    ),
    "graph": (
        lambda adata, path: samsvae.TrainSettings(step="graph"),
        "'graph' needs a CUDA device",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_left_in_a_file_is_told(name: str, tmp_path: Path) -> None:
    act, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        act(make_adata(), tmp_path / "screen.h5ad")


def test_values_that_are_no_counts_are_told_before_anything_is_read_twice(tmp_path: Path) -> None:
    adata = make_adata()
    adata.X = adata.X + 0.5
    path = written(sparse(adata), tmp_path / "screen.h5ad")
    with pytest.raises(InputError, match=r"not whole numbers.*turned back"):
        Screen.open(path, in_memory=False)


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    path = written(sparse(make_adata()), tmp_path / "screen.h5ad")
    _, file = both(path)
    written(sparse(make_adata(seed=1)), path)
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match="was changed while its cells were being read"):
        file.to_memory()
    path.unlink()
    with pytest.raises(InputError, match="is gone"):
        file.to_memory()


def edit(path: Path) -> None:
    """Change a value of X in a zarr store."""
    node = zarr.open_group(path, mode="r+")["X"]
    values = node["data"] if "data" in getattr(node, "keys", tuple)() else node
    values[-1:] = values[-1:] + 1


FORMS = pytest.mark.parametrize("kind", [sparse, lambda adata: adata], ids=["sparse", "dense"])
Form = Callable[[AnnData], AnnData]


@FORMS
def test_a_zarr_store_that_is_edited_in_place_is_told(tmp_path: Path, kind: Form) -> None:
    path = aged(written(kind(make_adata()), tmp_path / "screen.zarr"))
    _, file = both(path)
    file.to_memory()
    edit(path)
    with pytest.raises(InputError, match="was changed while its cells were being read"):
        file.to_memory()


@FORMS
@pytest.mark.usefixtures("small_blocks")
def test_a_store_that_is_edited_during_a_pass_is_told(tmp_path: Path, kind: Form) -> None:
    path = aged(written(kind(make_adata()), tmp_path / "screen.zarr"))
    _, file = both(path)
    blocks = file.blocks()
    next(blocks)
    edit(path)
    with pytest.raises(InputError, match="was changed while its cells were being read"):
        list(blocks)


@FORMS
def test_the_end_of_every_pass_looks_for_changes(tmp_path: Path, kind: Form) -> None:
    path = aged(written(kind(make_adata()), tmp_path / "screen.zarr"))
    _, file = both(path)
    reading = ExitStack()
    reading.enter_context(file.counts.matrix.opened())(slice(0, 10))
    edit(path)
    with pytest.raises(InputError, match="was changed while its cells were being read"):
        reading.close()


def test_what_else_is_written_into_a_zarr_store_is_no_change(tmp_path: Path) -> None:
    path = aged(written(sparse(make_adata()), tmp_path / "screen.zarr"))
    memory, file = both(path)
    zarr.open_group(path, mode="r+")["obs"].attrs["note"] = "later"
    assert (file.to_memory().counts != memory.counts).nnz == 0


def test_damage_is_told_when_it_is_met(tmp_path: Path) -> None:
    path = written(sparse(make_adata()), tmp_path / "screen.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][9] = 300
    with pytest.raises(InputError, match="the index 300 is not between"):
        Screen.open(path, in_memory=False)
