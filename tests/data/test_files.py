"""Files of every kind that is read, and what is told of others."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

from helpers.file_kinds import write_10x_h5, write_h5mu, write_labels
from helpers.screens import make_adata
from samsvae import InputError, Screen, read_h5ad


@pytest.fixture
def expected(adata: AnnData) -> Screen:
    return Screen.from_anndata(adata, split_key="split")


def same(screen: Screen, expected: Screen) -> None:
    assert list(screen.cells) == list(expected.cells)
    assert screen.genes == expected.genes
    assert screen.conditions == expected.conditions
    np.testing.assert_array_equal(screen.condition, expected.condition)
    np.testing.assert_array_equal(screen.counts.toarray(), expected.counts.toarray())
    assert list(screen.split) == list(expected.split)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_anndata(adata: AnnData, expected: Screen, tmp_path: Path, suffix: str, form) -> None:
    adata.X, path = form(adata.X), tmp_path / f"screen{suffix}"
    adata.write_h5ad(path) if suffix == ".h5ad" else adata.write_zarr(path)
    same(Screen.open(path, split_key="split"), expected)


def test_read_h5ad_is_open(adata: AnnData, expected: Screen, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "screen.h5ad")
    same(read_h5ad(tmp_path / "screen.h5ad", split_key="split"), expected)


def test_h5mu(adata: AnnData, expected: Screen, tmp_path: Path) -> None:
    path = tmp_path / "screen.h5mu"
    write_h5mu(path, adata)
    same(Screen.open(path, modality="rna", split_key="split"), expected)
    with pytest.raises(InputError, match="has the modalities 'prot', 'rna': give one by modality"):
        Screen.open(path)
    with pytest.raises(InputError, match="has no modality 'atac': there are 'prot', 'rna'"):
        Screen.open(path, modality="atac")


@pytest.mark.parametrize("sep", [",", "\t"])
def test_10x_h5(adata: AnnData, expected: Screen, tmp_path: Path, sep: str) -> None:
    write_10x_h5(tmp_path / "filtered.h5", adata)
    write_labels(tmp_path / "labels.csv", adata, sep)
    given = {"labels": str(tmp_path / "labels.csv"), "split_key": "split"}
    with pytest.warns(match="features that are not genes are left out: 2 of Antibody Capture"):
        same(Screen.open(tmp_path / "filtered.h5", **given), expected)
    write_10x_h5(tmp_path / "old.h5", adata, old=True)
    same(Screen.open(tmp_path / "old.h5", **given), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_10x_folder(adata: AnnData, expected: Screen, tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "filtered_feature_bc_matrix"
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(adata.X.T.astype(int)))
    rows = [f"ENSG{i}\t{name}\tGene Expression" for i, name in enumerate(adata.var_names)]
    (folder / "features.tsv").write_text("\n".join(rows) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    if packed:
        for path in list(folder.iterdir()):
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    write_labels(tmp_path / "labels.csv", adata, ",")
    same(Screen.open(folder, labels=str(tmp_path / "labels.csv"), split_key="split"), expected)


def test_symbols_that_are_not_unique_are_told(adata: AnnData, tmp_path: Path) -> None:
    adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    write_10x_h5(tmp_path / "old.h5", adata, old=True)
    write_labels(tmp_path / "labels.csv", adata, ",")
    given = {"labels": str(tmp_path / "labels.csv")}
    with pytest.warns(match="1 gene symbols occur more than once, 'g0': genes go by their ident"):
        screen = Screen.open(tmp_path / "old.h5", **given, gene_key="gene_symbols")
    assert screen.genes[:2] == ("ENSG0", "ENSG1")
    assert screen.registry.position_of_target["g0"] == 0


def test_labels_beside_any_file(adata: AnnData, expected: Screen, tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", adata, ",")
    adata.obs = adata.obs[["batch"]]
    adata.write_h5ad(tmp_path / "bare.h5ad")
    same(
        Screen.open(
            tmp_path / "bare.h5ad",
            labels=str(tmp_path / "labels.csv"),
            split_key="split",
            batch_key="batch",
        ),
        expected,
    )


def test_cells_without_a_row_of_labels_are_not_dropped_unasked(
    adata: AnnData, tmp_path: Path
) -> None:
    write_labels(tmp_path / "labels.csv", adata[5:], ",")
    adata.obs = adata.obs[[]]
    adata.write_h5ad(tmp_path / "bare.h5ad")
    given = {"labels": str(tmp_path / "labels.csv")}
    with pytest.raises(InputError, match="lacks the perturbation of 5 of 240 cells"):
        Screen.open(tmp_path / "bare.h5ad", **given)
    with pytest.warns(match="5 without a label of 240 cells are left out"):
        assert len(Screen.open(tmp_path / "bare.h5ad", **given, drop_unlabelled=True)) == 235


def test_labels_of_other_cells(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "x.h5ad")
    pd.DataFrame({"a": ["1"]}, index=["other"]).to_csv(tmp_path / "labels.csv")
    with pytest.raises(InputError, match=r"names none of the 240 cells: .*'other', .* 'cell0'"):
        Screen.open(tmp_path / "x.h5ad", labels=str(tmp_path / "labels.csv"))
    pd.DataFrame({"a": ["1", "2"]}, index=["cell0"] * 2).to_csv(tmp_path / "labels.csv")
    with pytest.raises(InputError, match=r"1 names in .*labels.csv' occur more than once, 'cell0'"):
        Screen.open(tmp_path / "x.h5ad", labels=str(tmp_path / "labels.csv"))


def test_home_and_environment(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.write_h5ad(tmp_path / "screen.h5ad")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCREENS", str(tmp_path))
    assert len(Screen.open("~/screen.h5ad")) == len(Screen.open("$SCREENS/screen.h5ad")) == 240


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.h5ad", r"no file 'nothing\.h5ad': expected one of \.h5ad, \.h5mu, .*\.zarr"),
        ("folder", "'folder' is a directory, and holds no zarr store and no matrix.mtx"),
        ("table.csv", r"'table\.csv' ends in '\.csv': expected one of \.h5ad"),
        ("x.h5ad.gz", r"ends in '\.gz': .*; unpack it first"),
        ("https://host/x.h5ad", r"'https://host/x\.h5ad' is not on this machine: download it"),
        ("s3://bucket/x.zarr", r"'s3://bucket/x\.zarr' is not on this machine"),
        ("anndata.h5", r"no group 'matrix': expected 10x Genomics' h5; .* ends in \.h5ad"),
        ("text.h5", r"'text\.h5' cannot be read as 10x Genomics' h5"),
        ("half", r"'half' has a matrix but no barcodes\.tsv"),
    ],
)
def test_what_is_not_read_has_its_own_line(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "half"):
        (tmp_path / name).mkdir()
    scipy.io.mmwrite("half/matrix.mtx", sp.coo_matrix((2, 2)))
    for name in ("table.csv", "x.h5ad.gz", "text.h5"):
        (tmp_path / name).write_text("a,b\n")
    make_adata(n_cells=30).write_h5ad("anndata.h5")
    with pytest.raises(InputError, match=message) as caught:
        Screen.open(path)
    assert "\n" not in str(caught.value)


def test_modality_of_a_file_without(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(InputError, match="has no modalities: leave modality out"):
        Screen.open(tmp_path / "x.h5ad", modality="rna")


def test_a_matrix_of_another_shape_is_damaged(adata: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    write_10x_h5(path, adata, old=True)
    with h5py.File(path, "a") as file:
        file["GRCh38/shape"][0] = 7
    with pytest.raises(InputError, match="is 7 x 240, of 12 features and 240 barcodes"):
        Screen.open(path)
