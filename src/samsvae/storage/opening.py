"""Any file that holds a screen, as a table: of anndata, of mudata, of 10x Genomics."""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from samsvae.errors import InputError, check_unique, first_line, listed, note
from samsvae.storage.anndata_files import (
    Frame,
    Table,
    X,
    check_declared_size,
    member,
    stored_frame,
    subgroup,
)
from samsvae.storage.files import expanded
from samsvae.storage.hdf5 import open_hdf5, packed_as
from samsvae.storage.probe import check_walkable
from samsvae.storage.sgrna_counts import (
    among_genes,
    checked_reference,
    is_sgrna,
    sgrna_modalities,
    with_modality,
    with_sgrnas,
)

KINDS = (".h5ad", ".h5mu", ".h5 (10x Genomics)", ".zarr", "a folder of 10x Genomics' matrix")
_SUFFIXES = {".h5ad": "h5ad", ".h5mu": "h5mu", ".h5": "10x Genomics' h5"}
_WITH_PARTS = ("h5mu", "10x Genomics' h5")
"""Kinds of which `modality` chooses a part: a modality, or a genome."""
_GENES = "Gene Expression"
"""The type of feature that genes are, of 10x Genomics."""
_COMPRESSED = (".gz", ".zip", ".tar", ".bz2", ".xz")
_REMOTE = re.compile(r"(https?|s3|gs|gcs|ftp|az|abfss?):/", re.IGNORECASE)


@contextmanager
def opened(
    path: str | os.PathLike[str],
    *,
    modality: str | None = None,
    labels: str | None = None,
    feature_reference: str | None = None,
) -> Iterator[Table]:
    """Open a file, or a folder, as a table; columns and matrices are read on request.

    `modality` is the one to read, from a file with several; `labels` is a CSV or TSV file of more
    columns of the cells, with the cells' names in the first; `feature_reference` is Cell Ranger's
    CSV file of the sgRNAs.
    """
    file = local(path)
    kind, reference = _kind(file), read_reference(feature_reference)
    if modality is not None and kind not in _WITH_PARTS:
        raise InputError(f"{str(file)!r} has no modalities: leave modality out")
    with ExitStack() as stack:
        try:
            table = _read(file, kind, stack, modality, reference)
            if labels is not None:
                table = table.with_columns(_labels(labels, table), f"labels in {labels!r}")
            yield table
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(
                f"{str(file)!r} does not fit in memory ({first_line(error)}): in_memory=False "
                "(--on-disk) leaves counts in the file"
            ) from error
        except Exception as error:  # many types, for a file that is not what it should be
            raise InputError(
                f"{str(file)!r} cannot be read as {kind} (is it complete, and what its name "
                f"says?): {first_line(error)}"
            ) from error


def local(path: str | os.PathLike[str]) -> Path:
    """Return the path of an existing file on this machine."""
    text = os.fspath(path)
    if _REMOTE.match(text):
        raise InputError(f"{text!r} is not on this machine: download it, and give the file")
    file = expanded(text)
    if not file.exists():
        raise InputError(f"no file {str(file)!r}: expected one of {', '.join(KINDS)}")
    return file


def _kind(path: Path) -> str:
    """Return the kind of a file by its suffix, of a folder by its content."""
    suffix = path.suffix.lower()
    if path.is_dir():
        if suffix == ".zarr" or (path / ".zgroup").exists() or (path / "zarr.json").exists():
            return "zarr"
        if _matrix_in(path) is not None:
            return "10x Genomics' matrix"
        raise InputError(
            f"{str(path)!r} is a directory, and holds no zarr store and no matrix.mtx: expected "
            f"one of {', '.join(KINDS)}"
        )
    if suffix == ".zarr":
        kind = packed_as(path)
        advice = "unpack it, and give the directory" if kind else "give the directory"
        raise InputError(
            f"{str(path)!r} is a {kind or 'single'} file, a zarr store is a directory: {advice}"
        )
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{str(path)!r} ends in {suffix!r}: expected one of {', '.join(KINDS)}"
            + ("; unpack it first" if suffix in _COMPRESSED else "")
        )
    return _SUFFIXES[suffix]


def _read(
    path: Path,
    kind: str,
    stack: ExitStack,
    modality: str | None,
    reference: pd.DataFrame | None,
) -> Table:
    if kind == "zarr":
        import zarr  # slow to import, and needed for zarr stores alone

        return _read_anndata(zarr.open_group(path, mode="r"), reference)
    if kind == "10x Genomics' matrix":
        return _read_10x_folder(path, reference)
    check_walkable(path)
    file = stack.enter_context(open_hdf5(path))
    if kind == "h5ad":
        return _read_anndata(file, reference)
    if kind != "h5mu":
        return _read_10x_h5(file, modality, reference)
    modalities = subgroup(file, "mod")
    of_sgrnas = sgrna_modalities(modalities)
    names = [name for name in modalities if name not in of_sgrnas]
    if modality is not None or not names:
        names = list(modalities)
    chosen = _chosen(names, modality, "modality", "modalities")
    table, obs = _read_anndata(modalities[chosen], reference), stored_frame(file, "obs")
    others = [name for name in of_sgrnas if name != chosen]
    if others and table.sgrnas is None:
        if len(others) > 1:
            note(f"the modalities {listed(others)} hold sgRNA counts: those of the first are taken")
        table = with_modality(table, Table.stored(modalities[others[0]]), others[0], reference)
    return table.with_columns(obs, "obs of the whole file")


def _read_anndata(group: Any, reference: pd.DataFrame | None) -> Table:
    """Return the content of a group that is laid out as anndata does, sgRNAs apart."""
    return with_sgrnas(Table.stored(group), subgroup(group, "obsm"), group.get("uns"), reference)


def read_reference(path: str | None) -> pd.DataFrame | None:
    """Return the sgRNAs of a feature reference of Cell Ranger, a CSV file; None without one."""
    return None if path is None else checked_reference(_texts(local(path)))


def _chosen(names: list[str], chosen: str | None, one: str, several: str) -> str:
    """Return the part of a file that is chosen, or the only one."""
    if chosen is None and len(names) > 1:
        raise InputError(
            f"the file has the {several} {listed(names)}: give one by modality (--modality)"
        )
    if chosen is not None and chosen not in names:
        raise InputError(f"the file has no {one} {chosen!r}: there are {listed(names) or 'none'}")
    return names[0] if chosen is None else chosen


def _labels(path: str, table: Table) -> Frame:
    """Return columns of cells from a CSV or TSV file, by the cells' names in the first."""
    file = local(path)
    frame = _texts(file)
    frame.index = pd.Index(frame.pop(frame.columns[0]).fillna(""), dtype=object)
    check_unique(frame.index, f"names in {str(file)!r}", "expected one row per cell")
    names = pd.Index(table.cells.names.astype(str))
    if not names.isin(frame.index).any():
        raise InputError(
            f"{str(file)!r} names none of the {len(names):,} cells: its first column has "
            f"{listed(frame.index, 2)}, the cells are called {listed(names, 2)}"
        )
    return Frame.of(frame, "the labels")


def _texts(file: Path) -> pd.DataFrame:
    """Return a CSV or TSV file, every value as a text; raise if it cannot be read."""
    try:
        return _read_texts(file)
    except (OSError, ValueError) as error:  # pandas' own errors are among them
        raise InputError(
            f"{str(file)!r} cannot be read as CSV or TSV in UTF-8: {first_line(error)}"
        ) from error


def _read_texts(file: Path) -> pd.DataFrame:
    """Return a CSV or TSV file, every value as the text that it is: "000", 1.10, NA."""
    opener: Any = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8-sig") as lines:
        header, row = lines.readline(), lines.readline()
        separator = max(",\t;", key=header.count)
        names, values = (next(csv.reader([x], delimiter=separator), []) for x in (header, row))
        lines.seek(0)
        # R leaves out the header of row names.
        columns = {"names": ["", *names], "skiprows": 1} if len(values) == len(names) + 1 else {}
        return pd.read_csv(
            lines,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
            index_col=False,
            **columns,
        )


def _read_10x_h5(file: h5py.File, genome: str | None, reference: pd.DataFrame | None) -> Table:
    """Return the genes of a filtered (or raw) feature-barcode matrix, of Cell Ranger 2 or later.

    `genome` is the one to read. Cell Ranger 2 keeps a matrix for each, later ones have a column.
    """
    group = member(file, "matrix")
    if group is None:
        groups = {name: member(file, name) for name in file}
        genomes = [k for k, v in groups.items() if isinstance(v, h5py.Group) and "barcodes" in v]
        if not genomes:
            raise InputError(
                "the file has no group 'matrix': expected 10x Genomics' h5; a file of anndata ends "
                "in .h5ad"
            )
        group = groups[_chosen(genomes, genome, "genome", "genomes")]
        genome, columns = None, {"id": group["genes"], "name": group["gene_names"]}
    else:
        names = ("id", "name", "feature_type", "target_gene_id", "target_gene_name")
        names = (*names, *(("genome",) if genome is not None else ()))
        columns = {name: group["features"][name] for name in names if name in group["features"]}
    check_declared_size(group, "the matrix")
    features = pd.DataFrame({name: column.asstr()[:] for name, column in columns.items()})
    barcodes = group["barcodes"].asstr()[:]
    shape = tuple(map(int, group["shape"][:]))
    _check_shape(shape, features, barcodes)
    # Columns of the file are cells, so its arrays are the rows of cells x genes.
    parts = tuple(group[name][:] for name in ("data", "indices", "indptr"))
    matrix = sp.csr_matrix(parts, shape=shape[::-1])
    matrix.check_format(full_check=True)
    if genome is not None:
        of_genes = features[features["feature_type"] == _GENES]
        _chosen(list(of_genes.get("genome", pd.Series(dtype=str)).unique()), genome, "genome", "")
        is_other = (features["feature_type"] == _GENES) & (features["genome"] != genome)
        is_chosen = ~is_other.to_numpy()
        matrix, features = matrix[:, is_chosen], features[is_chosen]
    return _genes_among(matrix, barcodes, features, reference)


def _matrix_in(folder: Path) -> Path | None:
    """Return the matrix in a folder, if there is one."""
    paths = (folder / name for name in ("matrix.mtx", "matrix.mtx.gz"))
    return next((path for path in paths if path.exists()), None)


def _read_10x_folder(folder: Path, reference: pd.DataFrame | None) -> Table:
    """Return the genes of a folder with matrix.mtx, barcodes.tsv and features.tsv, or *.gz."""
    barcodes = _lines(folder, "barcodes.tsv")[0].to_numpy(str)
    features = _lines(folder, "features.tsv", "genes.tsv")
    features = features.rename(columns={0: "id", 1: "name", 2: "feature_type"})
    if "name" not in features:
        features["name"] = features["id"]
    matrix = scipy.io.mmread(_matrix_in(folder))
    _check_shape(matrix.shape, features, barcodes)
    return _genes_among(sp.csr_matrix(matrix.T), barcodes, features, reference)


def _lines(folder: Path, *names: str) -> pd.DataFrame:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    raise InputError(f"{str(folder)!r} has a matrix but no {' or '.join(names)}")


def _check_shape(shape: tuple[int, ...], features: pd.DataFrame, barcodes: np.ndarray) -> None:
    if shape != (len(features), len(barcodes)):
        raise InputError(
            f"the matrix is {' x '.join(map(str, shape))}, of {len(features)} features and "
            f"{len(barcodes)} barcodes: the file is damaged"
        )


def _genes_among(
    counts: sp.csr_matrix,
    barcodes: np.ndarray,
    features: pd.DataFrame,
    reference: pd.DataFrame | None,
) -> Table:
    """Return the genes among the features, named by symbols where unique, and the sgRNAs."""
    if "feature_type" not in features:  # of an old version of Cell Ranger: all are genes
        features["feature_type"] = _GENES
    is_gene = (features["feature_type"] == _GENES).to_numpy()
    of_guides = is_sgrna(features, features["feature_type"], reference)
    others = features["feature_type"][~is_gene & ~of_guides].value_counts()
    if not is_gene.any():
        raise InputError(f"no feature has the type {_GENES!r}: there are {listed(others.index)}")
    if len(others):
        dropped = ", ".join(f"{n} of {kind}" for kind, n in others.items())
        hint = "; if they are sgRNAs, give feature_reference (--feature-reference)"
        note(
            f"features that are not genes are left out: {dropped}"
            + (hint if "Custom" in others.index and reference is None else "")
        )
    genes = features.loc[is_gene].rename(columns={"id": "gene_ids", "name": "gene_symbols"})
    symbols = pd.Index(genes["gene_symbols"])
    if not symbols.is_unique:
        repeated = symbols[symbols.duplicated()].unique()
        note(
            f"{len(repeated)} gene symbols occur more than once, {listed(repeated, 3)}: genes go "
            "by their identifiers (gene_key='gene_symbols' finds targets by symbol)"
        )
    names = pd.Index(genes["gene_symbols" if symbols.is_unique else "gene_ids"].to_numpy(object))
    matrix = counts[:, is_gene]
    sgrnas = None
    if of_guides.any():
        own = counts[:, of_guides], features[of_guides]
        sgrnas = lambda: among_genes(*own, reference)  # noqa: E731
    return Table(
        Frame.of(pd.DataFrame(index=pd.Index(barcodes)), "the cells"),
        Frame.of(genes[["gene_ids", "gene_symbols"]].set_axis(names), "the genes"),
        {X: lambda: matrix},
        sgrnas=sgrnas,
    )
