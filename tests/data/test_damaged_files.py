"""Damaged h5ad files: a clear line, or the right answer."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from helpers.screens import make_adata
from samsvae import InputError, Screen

KINDS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


@pytest.fixture(scope="module", params=list(KINDS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a good file of each kind."""
    path = tmp_path_factory.mktemp("damaged") / f"{request.param}.h5ad"
    adata = make_adata(n_cells=60)
    adata.X = KINDS[request.param](adata.X)
    adata.layers["again"] = adata.X.copy()
    adata.write_h5ad(path)
    return path


def read(path: Path) -> Screen:
    return samsvae.read_h5ad(path, split_key="split")


def put(part: str, place: int, value: int) -> Callable[[h5py.Group], None]:
    def change(matrix: h5py.Group) -> None:
        matrix[part][place] = value

    return change


def replace(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.Group], None]:
    def changed(matrix: h5py.Group) -> None:
        values = change(matrix[part][:])
        del matrix[part]
        matrix[part] = values

    return changed


def shape(*sizes: int) -> Callable[[h5py.Group], None]:
    def change(matrix: h5py.Group) -> None:
        matrix.attrs["shape"] = sizes

    return change


DAMAGE: dict[str, tuple[Callable[[h5py.Group], None], str]] = {
    "index out of range": (put("indices", 9, 300), "the index 300 is not between"),
    "negative index": (put("indices", 9, -1), "the index -1 is not between"),
    "indptr does not start at 0": (put("indptr", 0, 3), "indptr goes from 3"),
    "negative indptr": (put("indptr", 5, -5), "indptr falls"),
    "indptr falls": (put("indptr", 3, 10**6), "indptr falls"),
    "indptr does not end at the end": (put("indptr", -1, 7), "indptr goes from 0 to 7"),
    "indptr is short": (replace("indptr", lambda x: x[:-1]), "indptr has"),
    "indices are short": (replace("indices", lambda x: x[:-1]), "values and"),
    "data are short": (replace("data", lambda x: x[:-2]), "values and|indptr goes"),
    "indices are no whole numbers": (replace("indices", lambda x: x * 1.0), "indices are float64"),
    "indptr are no whole numbers": (replace("indptr", lambda x: x * 1.0), "indptr are float64"),
    "too few genes": (shape(60, 5), "its shape is 60 x 5, expected 60 cells x 12 genes"),
    "too many cells": (shape(10**9, 12), "its shape is 1000000000 x 12"),
    "no indices": (lambda matrix: matrix.__delitem__("indices"), "it has no indices"),
    "no shape": (lambda matrix: matrix.attrs.__delitem__("shape"), "its shape is none"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("node", ["X", "layers/again"])
def test_a_damaged_sparse_matrix_is_refused(
    whole: Path, tmp_path: Path, name: str, node: str
) -> None:
    if whole.stem == "dense":
        pytest.skip("a dense matrix has no structure")
    change, message = DAMAGE[name]
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        change(file[node])
    layer = None if node == "X" else "again"
    with pytest.raises(InputError, match=message):
        samsvae.read_h5ad(path, layer=layer)
    if node != "X":  # what is not read does no harm
        assert len(read(path)) == 60


def test_a_matrix_in_memory_is_checked_too() -> None:
    adata = make_adata(n_cells=60)
    matrix = sp.csr_matrix(adata.X)
    matrix.indices[9] = 300
    with pytest.raises(InputError, match="no sparse matrix"):
        Screen.from_anndata(AnnData(matrix, obs=adata.obs, var=adata.var))


def test_a_backed_matrix_is_checked_too(whole: Path, tmp_path: Path) -> None:
    import anndata

    if whole.stem == "dense":
        pytest.skip("a dense matrix has no structure")
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][9] = 300
    with pytest.raises(InputError, match="the index 300"):
        Screen.from_anndata(anndata.read_h5ad(path, backed="r"))


@pytest.mark.parametrize("node", ["X", "obs/_index", "obs/perturbation/codes", "layers/again"])
def test_declared_sizes_are_not_believed(whole: Path, tmp_path: Path, node: str) -> None:
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        attributes, width = dict(file[node].attrs), (12,) if "obs" not in node else ()
        del file[node]
        file.create_dataset(node, (10**9, *width), "i8", chunks=True).attrs.update(attributes)
    with pytest.raises(InputError, match=r"declares|damaged|cannot be read|no sparse|expected"):
        samsvae.read_h5ad(path, layer="again" if "again" in node else None)


@pytest.mark.parametrize("node", ["layers", "obsm", "raw", "uns"])
def test_an_array_is_no_group(whole: Path, tmp_path: Path, node: str) -> None:
    """Nobody looks for a name among the values of an array: a billion of them take minutes."""
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        if node in file:
            del file[node]
        file.create_dataset(node, (10**9,), "f8", chunks=True)
    if node == "uns":  # it is not read
        assert len(read(path)) == 60
        return
    with pytest.raises(InputError, match=f"{node} is an array, expected a group"):
        read(path)


@pytest.mark.parametrize("node", ["X", "obs/_index", "obs/perturbation/codes"])
def test_an_array_without_a_size_is_none(whole: Path, tmp_path: Path, node: str) -> None:
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        attributes = {k: v for k, v in file[node].attrs.items() if k.startswith("encoding")}
        del file[node]
        file[node] = h5py.Empty("f8")
        file[node].attrs.update(attributes)
    with pytest.raises(InputError, match=r"is empty: the file is damaged|no sparse matrix"):
        read(path)


def test_no_matrix_in_either_form(whole: Path, tmp_path: Path) -> None:
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    for empty in (True, False):
        with h5py.File(path, "r+") as file:
            del file["X"]
            if empty:
                file["X"] = h5py.Empty("f8")
            else:
                file.create_group("X")
            file["X"].attrs.update({"encoding-type": "null", "encoding-version": "0.1.0"})
        with pytest.warns(UserWarning, match="adata.X is empty: layer 'again' is taken"):
            assert len(read(path)) == 60


def test_what_is_not_needed_is_not_read(whole: Path, tmp_path: Path) -> None:
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        file.create_dataset("obsm/huge", (60, 10**9), "f8", chunks=True)
        file.create_dataset("obs/strange", data=3)
        file["obs"].attrs["column-order"] = [*file["obs"].attrs["column-order"], "strange"]
    assert len(read(path)) == 60
    with pytest.raises(InputError, match="strange"):
        samsvae.read_h5ad(path, batch_key="strange")


@pytest.mark.parametrize("node", ["X", "layers/again", "obs", "obs/split", "obs/_index"])
def test_links_out_of_the_file_are_not_followed(whole: Path, tmp_path: Path, node: str) -> None:
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        del file[node]
        file[node] = h5py.ExternalLink(str(whole), node)
    with pytest.raises(InputError, match="leads to another file"):
        samsvae.read_h5ad(path, layer="again" if "again" in node else None, split_key="split")


def test_sizes_in_frames_of_an_old_form_are_not_believed(whole: Path, tmp_path: Path) -> None:
    path = shutil.copy(whole, tmp_path / "file.h5ad")
    with h5py.File(path, "r+") as file:
        for name in ("encoding-version", "encoding-type"):
            del file["obs"].attrs[name]
        file.create_dataset("obs/big", (10**9,), "f8", chunks=True)
    with pytest.raises(InputError, match="obs declares 1,000,000,000 values"):
        read(path)


def mutate(path: Path, rng: random.Random) -> str:
    """Change something in a file; return what."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        node, kind = file[name], rng.choice(["value", "cut", "remove", "type", "link", "attribute"])
        attributes = dict(node.attrs)
        if kind == "remove":
            del file[name]
        elif kind == "link":
            del file[name]
            file[name] = h5py.SoftLink(rng.choice(["/nowhere", f"/{name}", "/obs", "/"]))
        elif kind == "attribute" and attributes:
            strange = ["x", 5, [1, 2], "csc_matrix", "csr_matrix", "array", "dataframe"]
            node.attrs[rng.choice(list(attributes))] = rng.choice(strange)
        elif isinstance(node, h5py.Dataset) and node.shape and node.size:
            values = node[...]
            if kind == "cut":
                values = values[:-1]
            elif values.dtype.kind not in "iuf":
                values.reshape(-1)[rng.randrange(values.size)] = rng.choice(
                    [b"", b"\xff", b"z" * 9]
                )
            elif kind == "type":
                values = values.astype(rng.choice(["f8", "i1", "c8"]))
            else:
                wrong = np.array(rng.choice([-5, 300, 2**31 - 1, 10**9])).astype(values.dtype)
                values.reshape(-1)[rng.randrange(values.size)] = wrong
            del file[name]
            file.create_dataset(name, data=values).attrs.update(attributes)
    return f"{kind} of {name}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_end_in_a_line_or_a_right_answer(whole: Path, tmp_path: Path) -> None:
    rng, good = random.Random(0), read(whole)
    n_refused = 0
    for _ in range(100):
        path = shutil.copy(whole, tmp_path / "file.h5ad")
        what = mutate(path, rng)
        try:
            screen = read(path)
        except InputError:
            n_refused += 1
            continue
        assert len(screen) == len(good), what
        assert screen.counts.shape == good.counts.shape, what
        if "of X" not in what:
            assert (screen.counts != good.counts).nnz == 0, what
    assert n_refused > 30
