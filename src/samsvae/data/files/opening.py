"""Any file that holds a screen, as a table."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from samsvae.data.files import anndata_files, tenx
from samsvae.data.files.anndata_files import Frame, Table
from samsvae.data.files.probe import check_walkable
from samsvae.errors import InputError, first_line, listed

KINDS = (".h5ad", ".h5mu", ".h5 (10x Genomics)", ".zarr", "a folder of 10x Genomics' matrix")
_REMOTE = re.compile(r"(https?|s3|gs|gcs|ftp|az|abfss?):/", re.IGNORECASE)


@contextmanager
def opened(
    path: str | os.PathLike[str], *, modality: str | None = None, labels: str | None = None
) -> Iterator[Table]:
    """Open a file, or a folder, as a table; columns and matrices are read when asked for.

    Parameters
    ----------
    path
        Of the file; "~" and environment variables are filled in.
    modality
        Which one, of a file with several.
    labels
        CSV or TSV file of further columns of the cells, their names in the first.

    Raises
    ------
    InputError
        If it is not there, of no kind that is read, or cannot be read as its kind.
    """
    found = local(path)
    with ExitStack() as stack:
        table = _read(found, _kind(found), stack, modality)
        with _told(found, _kind(found)):
            yield table if labels is None else table.with_columns(_labels(labels, table))


def local(path: str | os.PathLike[str]) -> Path:
    """Return a path with "~" and environment variables filled in, of what is there."""
    text = os.fspath(path)
    if _REMOTE.match(text):
        raise InputError(f"{text!r} is not on this machine: download it, and give the file")
    found = Path(os.path.expandvars(text)).expanduser()
    if not found.exists():
        raise InputError(f"no file {str(found)!r}: expected one of {', '.join(KINDS)}")
    return found


def _kind(path: Path) -> str:
    """Return what a file is, by its suffix; a folder, by what is in it."""
    suffix = path.suffix.lower()
    if path.is_dir():
        if suffix == ".zarr" or (path / ".zgroup").exists() or (path / "zarr.json").exists():
            return "zarr"
        if tenx.matrix_in(path) is not None:
            return "10x Genomics' matrix"
        raise InputError(
            f"{str(path)!r} is a directory, and holds no zarr store and no matrix.mtx: expected "
            f"one of {', '.join(KINDS)}"
        )
    kinds = {".h5ad": "h5ad", ".h5mu": "h5mu", ".h5": "10x Genomics' h5"}
    if suffix not in kinds:
        raise InputError(
            f"{str(path)!r} ends in {suffix!r}: expected one of {', '.join(KINDS)}"
            + ("; unpack it first" if suffix in (".gz", ".zip", ".tar", ".bz2", ".xz") else "")
        )
    return kinds[suffix]


@contextmanager
def _told(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # many kinds, for a file that is not what it should be
        raise InputError(
            f"{str(path)!r} cannot be read as {kind} (is it whole, and what its name says?): "
            f"{first_line(error)}"
        ) from error


def _read(path: Path, kind: str, stack: ExitStack, modality: str | None) -> Table:
    with _told(path, kind):
        if modality is not None and kind != "h5mu":
            raise InputError(f"{str(path)!r} has no modalities: leave modality out")
        if kind == "zarr":
            import zarr  # slow to import, and needed for its own files alone

            return anndata_files.table(zarr.open_group(path, mode="r"))
        if kind == "10x Genomics' matrix":
            return tenx.matrix(path)
        check_walkable(path)
        file = stack.enter_context(h5py.File(path, "r"))
        if kind == "h5ad":
            return anndata_files.table(file)
        if kind == "h5mu":
            return _modality(file, modality)
        return tenx.h5(file)


def _modality(file: h5py.File, name: str | None) -> Table:
    """Return a modality; columns of the cells that it lacks are those of the whole file."""
    names = list(file["mod"])
    if name is None and len(names) > 1:
        raise InputError(f"the file has the modalities {listed(names)}: give one by modality")
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise InputError(f"the file has no modality {chosen!r}: there are {listed(names)}")
    found = anndata_files.table(file[f"mod/{chosen}"])
    whole = anndata_files.frame(file, "obs")
    return found.with_columns(
        Frame(
            found.cells.names,
            whole.columns,
            lambda key: whole.read(key).reindex(found.cells.names),
        )
    )


def _labels(path: str, table: Table) -> Frame:
    """Return columns of the cells from a CSV or TSV file; missing for cells that it lacks."""
    found = local(path)
    try:
        opener: Any = gzip.open if found.suffix == ".gz" else open
        with opener(found, "rt") as file:
            first = file.readline()
        separator = "\t" if first.count("\t") > first.count(",") else ","
        frame = pd.read_csv(
            found, sep=separator, index_col=0, dtype=str, keep_default_na=False, na_values=[""]
        )
    except (OSError, ValueError) as error:  # pandas' own are among them
        raise InputError(f"{str(found)!r} cannot be read as CSV: {error}") from error
    frame.index = frame.index.astype(str)
    if not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()].unique()
        raise InputError(f"{str(found)!r} has several rows for {listed(twice, 3)}")
    names = pd.Index(table.cells.names.astype(str))
    if not names.isin(frame.index).any():
        raise InputError(
            f"{str(found)!r} names none of the {len(names):,} cells: its first column has "
            f"{listed(frame.index, 2)}, the cells are called {listed(names, 2)}"
        )
    return Frame.of(frame.reindex(names), "the labels")
