"""Tables as CSV files, in which every name comes back as it was, and as parquet.

AnnData as h5ad files that are whole or not there.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem

from samsvae.errors import InputError
from samsvae.storage.files import check_new_file, write_text, written_aside

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a text begins that a spreadsheet would take for a formula."""
SUFFIXES = (".csv", ".parquet")
"""Of files that tables are written to."""
_BREAKS = re.compile(r"[\r\n\x00]")


def to_csv(table: pd.DataFrame) -> str:
    r"""Return a table as CSV, without its index.

    A text that a spreadsheet would take for a formula (one that begins with =, +, -, @, a tab or a
    carriage return) gets an apostrophe in front, which `read_csv` takes off; texts are quoted where
    one of them breaks the line.

    Examples
    --------
    >>> to_csv(pd.DataFrame({"gene": ["=A1", "NA"], "ate": [-1.5, float("nan")]}))
    "gene,ate\n'=A1,-1.5\nNA,\n"
    """
    texts = _texts(table)
    guarded = table.assign(**{name: table[name].map(_guarded) for name in texts})
    breaks = any(_BREAKS.search(value) for name in texts for value in guarded[name].unique())
    quoting = csv.QUOTE_NONNUMERIC if breaks else csv.QUOTE_MINIMAL
    return guarded.to_csv(index=False, quoting=quoting)


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as `to_csv` gives it; aside, then renamed."""
    write_text(path, to_csv(table))


def check_writable(path: Path, *, overwrite: bool, h5ad: bool = False) -> None:
    """Raise if a table cannot be written there: by its ending, what stands there, what is missing.

    Parameters
    ----------
    path
        The file.
    overwrite
        Whether it may be there already.
    h5ad
        Whether the table can be AnnData, too.

    Raises
    ------
    InputError
        If the ending is none of a table's, a file is there, or pyarrow is missing.
    """
    check_new_file(path, (*SUFFIXES, ".h5ad") if h5ad else SUFFIXES, overwrite=overwrite)
    if path.suffix == ".parquet":
        _parquet()


def write_table(path: str | os.PathLike[str], tables: Iterable[pd.DataFrame]) -> int:
    """Write tables of the same columns one after the other, and return how many rows they have.

    As CSV or parquet by the file's ending; aside, then renamed. Never more than one is held.

    Raises
    ------
    InputError
        If pyarrow is missing, or the file cannot be written.
    """
    with written_aside(path) as aside:
        if Path(path).suffix == ".parquet":
            return _as_parquet(aside, tables)
        n_rows, first = 0, True
        with open(aside, "w", encoding="utf-8", newline="") as file:
            for table in tables:
                text = to_csv(table)
                file.write(text if first else text.split("\n", 1)[1])
                n_rows, first = n_rows + len(table), False
    return n_rows


def _as_parquet(path: Path, tables: Iterable[pd.DataFrame]) -> int:
    arrow, parquet = _parquet()
    n_rows, writer = 0, None
    try:
        for table in tables:
            # Names may differ from part to part, so they are texts, not codes of categories.
            texts = {name: table[name].astype(str) for name in _texts(table)}
            part = arrow.Table.from_pandas(table.assign(**texts), preserve_index=False)
            if writer is None:
                writer = parquet.ParquetWriter(path, part.schema)
            writer.write_table(part.cast(writer.schema))
            n_rows += len(table)
    finally:
        if writer is not None:
            writer.close()
    return n_rows


def _parquet() -> tuple[Any, Any]:
    """Return pyarrow, and what it writes parquet with."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "writing .parquet needs pyarrow, which is not installed: pip install "
            "'samsvae[parquet]', or give a name that ends in .csv"
        ) from None
    return pyarrow, pyarrow.parquet


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table that `write_csv` wrote: "NA" and the like are names, an empty cell is NaN.

    Raises
    ------
    InputError
        If it is no such table.
    """
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(_NAMES, str),
            keep_default_na=False,
            na_values=[""],
            float_precision="round_trip",
            skip_blank_lines=False,
        )
    except (OSError, ValueError) as error:  # pandas' own are among them
        raise InputError(f"{os.fspath(path)!r} is damaged ({error})") from error
    return table.assign(**{name: table[name].map(_unguarded) for name in _texts(table)})


_NAMES = (
    *("cell", "condition", "dimension", "gene", "metric", "perturbation", "predictor", "sgrna"),
    "split",
)
"""Columns of names, which may all look like numbers."""


def _texts(table: pd.DataFrame) -> list[str]:
    """Return the columns that hold texts."""
    kinds = {name: pd.api.types.infer_dtype(table[name], skipna=False) for name in table}
    return [str(name) for name, kind in kinds.items() if kind in ("string", "categorical")]


def _guarded(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


Rows: TypeAlias = Iterator[sp.csr_matrix]


def h5ad_bytes(adata: AnnData) -> bytes:
    """Return an AnnData object as the bytes of an h5ad file.

    The file is made in memory: when the disk is full in the middle of writing one, the HDF5 library
    may take the process with it.
    """
    adata.strings_to_categoricals()  # as AnnData.write_h5ad does
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        write_elem(file, "/", adata)
        file.flush()
        return bytes(file.id.get_file_image())


def write_h5ad(
    path: str | os.PathLike[str], adata: AnnData, rows: Callable[[], Rows] | None = None
) -> None:
    """Write an AnnData object aside, then rename it.

    Parameters
    ----------
    path
        Of the file.
    adata
        What it is to hold.
    rows
        Gives the rows of X, some at a time, where they are never to be in memory together: then
        that of `adata` is sparse, of the same shape, and empty. Called twice.
    """
    with written_aside(path) as aside:
        put_h5ad(aside, adata, rows)


def put_h5ad(path: Path, adata: AnnData, rows: Callable[[], Rows] | None = None) -> None:
    """Write an AnnData object to a path that is already aside; see `write_h5ad`."""
    path.write_bytes(h5ad_bytes(adata))
    if rows is not None:
        _fill(path, rows)


def _fill(path: Path, rows: Callable[[], Rows]) -> None:
    """Put rows in the place of an empty X."""
    seen = [(np.diff(block.indptr), block.dtype) for block in rows()]
    starts = np.concatenate([[0], *(widths for widths, _ in seen)]).cumsum()
    types = {"data": np.result_type(*(kind for _, kind in seen)), "indices": np.dtype(np.int32)}
    _check_room(path, sum(int(starts[-1]) * kind.itemsize for kind in types.values()))
    with h5py.File(path, "r+") as file:
        x = file["X"]
        for name, kind in types.items():
            del x[name]
            x.create_dataset(name, (starts[-1],), kind)
        x["indptr"][:] = starts
        place = 0
        for block in rows():
            part = slice(place, place + block.nnz)
            x["data"][part], x["indices"][part] = block.data, block.indices
            place = part.stop


def _check_room(path: Path, n_bytes: int) -> None:
    """Raise if a file cannot grow by so much, before the HDF5 library finds out (see above)."""
    if n_bytes and hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            size = path.stat().st_size
            os.posix_fallocate(file.fileno(), size, n_bytes)
            file.truncate(size)
