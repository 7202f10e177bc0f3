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

from samsvae.errors import InputError, first_line, listed
from samsvae.storage import tenx
from samsvae.storage.anndata_files import Frame, Table, stored_frame
from samsvae.storage.probe import check_walkable

KINDS = (".h5ad", ".h5mu", ".h5 (10x Genomics)", ".zarr", "a folder of 10x Genomics' matrix")
_SUFFIXES = {".h5ad": "h5ad", ".h5mu": "h5mu", ".h5": "10x Genomics' h5"}
_COMPRESSED = (".gz", ".zip", ".tar", ".bz2", ".xz")
_REMOTE = re.compile(r"(https?|s3|gs|gcs|ftp|az|abfss?):/", re.IGNORECASE)


@contextmanager
def opened(
    path: str | os.PathLike[str], *, modality: str | None = None, labels: str | None = None
) -> Iterator[Table]:
    """Open a file, or a folder, as a table; columns and matrices are read on request.

    `modality` is the one to read, from a file with several; `labels` is a CSV or TSV file of more
    columns of the cells, with the cells' names in the first. It is an error if the file does not
    exist, is of an unknown kind or cannot be read as its kind.
    """
    file = local(path)
    kind = _kind(file)
    if modality is not None and kind != "h5mu":
        raise InputError(f"{str(file)!r} has no modalities: leave modality out")
    with ExitStack() as stack:
        try:
            table = _read(file, kind, stack, modality)
            yield table if labels is None else table.with_columns(_labels(labels, table))
        except InputError:
            raise
        except Exception as error:  # many types, for a file that is not what it should be
            raise InputError(
                f"{str(file)!r} cannot be read as {kind} (is it complete, and what its name "
                f"says?): {first_line(error)}"
            ) from error


def local(path: str | os.PathLike[str]) -> Path:
    """Return the path of an existing file, with "~" and environment variables expanded."""
    text = os.fspath(path)
    if _REMOTE.match(text):
        raise InputError(f"{text!r} is not on this machine: download it, and give the file")
    expanded = Path(os.path.expandvars(text)).expanduser()
    if not expanded.exists():
        raise InputError(f"no file {str(expanded)!r}: expected one of {', '.join(KINDS)}")
    return expanded


def _kind(path: Path) -> str:
    """Return the kind of a file by its suffix, of a folder by its content."""
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
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{str(path)!r} ends in {suffix!r}: expected one of {', '.join(KINDS)}"
            + ("; unpack it first" if suffix in _COMPRESSED else "")
        )
    return _SUFFIXES[suffix]


def _read(path: Path, kind: str, stack: ExitStack, modality: str | None) -> Table:
    if kind == "zarr":
        import zarr  # slow to import, and needed for zarr stores alone

        return Table.stored(zarr.open_group(path, mode="r"))
    if kind == "10x Genomics' matrix":
        return tenx.read_folder(path)
    check_walkable(path)
    file = stack.enter_context(h5py.File(path, "r"))
    if kind == "h5ad":
        return Table.stored(file)
    return _modality(file, modality) if kind == "h5mu" else tenx.read_h5(file)


def _modality(file: h5py.File, name: str | None) -> Table:
    """Return a modality; it gets the columns of the whole file that it lacks."""
    names = list(file["mod"])
    if name is None and len(names) > 1:
        raise InputError(f"the file has the modalities {listed(names)}: give one by modality")
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise InputError(f"the file has no modality {chosen!r}: there are {listed(names)}")
    table, obs = Table.stored(file[f"mod/{chosen}"]), stored_frame(file, "obs")
    cells = table.cells.names
    return table.with_columns(Frame(cells, obs.columns, lambda key: obs.read(key).reindex(cells)))


def _labels(path: str, table: Table) -> Frame:
    """Return columns of the cells from a CSV or TSV file; missing for cells that it lacks."""
    file = local(path)
    try:
        opener: Any = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt") as lines:
            header = lines.readline()
        separator = "\t" if header.count("\t") > header.count(",") else ","
        frame = pd.read_csv(
            file, sep=separator, index_col=0, dtype=str, keep_default_na=False, na_values=[""]
        )
    except (OSError, ValueError) as error:  # pandas' own errors are among them
        raise InputError(f"{str(file)!r} cannot be read as CSV: {error}") from error
    frame.index = frame.index.astype(str)
    if not frame.index.is_unique:
        repeated = frame.index[frame.index.duplicated()].unique()
        raise InputError(f"{str(file)!r} has several rows for {listed(repeated, 3)}")
    names = pd.Index(table.cells.names.astype(str))
    if not names.isin(frame.index).any():
        raise InputError(
            f"{str(file)!r} names none of the {len(names):,} cells: its first column has "
            f"{listed(frame.index, 2)}, the cells are called {listed(names, 2)}"
        )
    return Frame.of(frame.reindex(names), "the labels")
