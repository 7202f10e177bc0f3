"""Files that are not damaged, and cannot be opened for another reason: that reason is given."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from helpers.file_kinds import write_10x_h5, write_labels
from samsvae import InputError, Screen

WRITER = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print(flush=True); sys.stdin.read()"


@pytest.fixture
def path(adata: AnnData, tmp_path: Path) -> Path:
    adata.X = sp.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "x.h5ad")
    return tmp_path / "x.h5ad"


def refused(path: Path, message: str, **settings: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Screen.open(path, **settings)
    assert "complete" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_for_writing_in_another_process(path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], **pipes) as writer:
        writer.stdout.readline()
        refused(path, r"x\.h5ad' is open for writing in another program: close it there")
        writer.communicate()
    assert len(Screen.open(path)) == 240


def test_left_open_by_a_process_that_was_killed(path: Path) -> None:
    with h5py.File(path.with_name("new.h5ad"), "w", libver="latest") as file:
        file["x"] = 1
        file.flush()
        shutil.copy(file.filename, path)
    refused(path, "is open for writing in another program.*h5clear --status clears the mark")


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError("Unable to open file (unable to lock file, errno = 37, error message = ...)")

    monkeypatch.setattr(h5py, "File", no_locks)
    refused(path, "is on a file system without locks: set HDF5_USE_FILE_LOCKING=FALSE")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads any file")
def test_a_file_that_may_not_be_read(path: Path) -> None:
    path.chmod(0)
    refused(path, "may not be read by this user: change its permissions")


def test_too_little_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(np, "rint", none_left)
    refused(path, r"does not fit in memory \(Unable to allocate 9 TiB\): in_memory=False \(--on-d")


@pytest.mark.parametrize("name", ["x.h5ad", "x.h5", "x.h5mu"])
def test_a_packed_file_of_another_name(path: Path, name: str) -> None:
    packed = gzip.compress(path.read_bytes())
    path.with_name(name).write_bytes(packed)
    refused(path.with_name(name), "is a gzip file: unpack it first")


def test_a_zarr_store_that_is_a_file(path: Path) -> None:
    (path.parent / "store").mkdir()
    shutil.make_archive(str(path.parent / "store"), "zip", path.parent / "store")
    zipped = (path.parent / "store.zip").rename(path.with_name("zipped.zarr"))
    refused(zipped, "is a zip file, a zarr store is a directory: unpack it, and give the directory")
    path.rename(path.with_name("plain.zarr"))
    refused(path.with_name("plain.zarr"), "is a single file, a zarr store is a directory: give the")


# Two genomes


def two_genomes(folder: Path, adata: AnnData) -> Path:
    """Write a file of Cell Ranger 2: human genes (those of `adata`), and as many of mouse."""
    path = folder / "two.h5"
    write_10x_h5(path, adata, old=True)
    with h5py.File(path, "a") as file:
        file.copy("GRCh38", "mm10")
        for name in ("genes", "gene_names"):
            names = np.char.add(b"mouse", file[f"mm10/{name}"][:])
            del file[f"mm10/{name}"]
            file[f"mm10/{name}"] = names
    write_labels(folder / "labels.csv", adata, ",")
    return path


def test_a_matrix_for_each_genome(adata: AnnData, tmp_path: Path) -> None:
    path, labels = two_genomes(tmp_path, adata), str(tmp_path / "labels.csv")
    named = r"the genomes 'GRCh38', 'mm10': give one by modality \(--modality\)"
    refused(path, named, labels=labels)
    refused(path, "no genome 'hg19': there are 'GRCh38', 'mm10'", labels=labels, modality="hg19")
    human, mouse = (Screen.open(path, labels=labels, modality=k) for k in ("GRCh38", "mm10"))
    assert human.genes == tuple(adata.var_names)
    assert mouse.genes == tuple(f"mouse{name}" for name in adata.var_names)


@pytest.mark.filterwarnings("ignore:features that are not genes")
def test_a_column_of_genomes(adata: AnnData, tmp_path: Path) -> None:
    path, labels = tmp_path / "new.h5", str(tmp_path / "labels.csv")
    write_10x_h5(path, adata)
    write_labels(tmp_path / "labels.csv", adata, ",")
    refused(path, "no genome 'mm10': there are none", labels=labels, modality="mm10")
    genomes = np.array(["GRCh38"] * 5 + ["mm10"] * (adata.n_vars - 5) + ["", ""], "S")
    with h5py.File(path, "a") as file:
        file["matrix/features/genome"] = genomes
    assert len(Screen.open(path, labels=labels).genes) == adata.n_vars
    assert Screen.open(path, labels=labels, modality="mm10").genes == tuple(adata.var_names[5:])
    refused(path, "no genome 'x': there are 'GRCh38', 'mm10'", labels=labels, modality="x")
