"""Tables as CSV (every name comes back as it was) and parquet, AnnData as h5ad."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem

from samsvae.errors import InputError
from samsvae.storage.files import expanded, write_text, written_aside

SUFFIXES = (".csv", ".parquet")
"""Of files that tables are written to."""
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Beginning of a text that a spreadsheet would take for a formula."""
_TEXT_KINDS = ("string", "categorical", "mixed", "mixed-integer")
_BREAKS = re.compile(r"[\r\n\x00]")
_NAMES = (
    *("against", "cell", "condition", "dimension", "gene", "label", "metric", "perturbation"),
    *("predictor", "sgrna", "split"),
)
"""Columns of names, which may all look like numbers."""


def to_csv(table: pd.DataFrame, *, header: bool = True) -> str:
    r"""Return a table as CSV, without its index.

    Texts (and names of columns) that a spreadsheet would take for a formula, those that begin with
    =, +, -, @, a tab or a carriage return, get an apostrophe in front, which `read_csv` removes.
    Texts are quoted where one of them breaks the line.

    >>> to_csv(pd.DataFrame({"gene": ["=A1", "NA"], "ate": [-1.5, float("nan")]}))
    "gene,ate\n'=A1,-1.5\nNA,\n"
    """
    texts = _text_columns(table)
    guarded = table.assign(**{name: table[name].map(_guarded) for name in texts})
    guarded = guarded.rename(columns=_guarded)
    values = [value for name in texts for value in table[name].unique()]
    breaks = any(_BREAKS.search(text) for text in (*table, *values) if isinstance(text, str))
    quoting = csv.QUOTE_NONNUMERIC if breaks else csv.QUOTE_MINIMAL
    return guarded.to_csv(index=False, header=header, quoting=quoting)


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as `to_csv` returns it."""
    write_text(path, to_csv(table))


def read_csv(path: str | os.PathLike[str], *, as_text: bool = False) -> pd.DataFrame:
    """Read a table that `write_csv` wrote: "NA" and the like are names, an empty cell is NaN.

    Columns of names are texts; `as_text`: all are.
    """
    try:
        table = pd.read_csv(
            expanded(path),
            dtype=str if as_text else dict.fromkeys(_NAMES, str),
            keep_default_na=False,
            na_values=[""],
            float_precision="round_trip",
            skip_blank_lines=False,
        )
    except (OSError, ValueError) as error:  # pandas' own errors are among them
        raise InputError(f"{os.fspath(path)!r} is damaged ({error})") from error
    texts = {name: table[name].map(_unguarded) for name in _text_columns(table)}
    return table.assign(**texts).rename(columns=_unguarded)


def _text_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that hold texts, with or without missing values."""
    kinds = {name: pd.api.types.infer_dtype(table[name], skipna=True) for name in table}
    return [name for name, kind in kinds.items() if kind in _TEXT_KINDS]


def _guarded(text: Any) -> Any:
    return f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def _unguarded(text: Any) -> Any:
    is_guarded = isinstance(text, str) and text.startswith("'") and _FORMULA.match(text)
    return text[1:] if is_guarded else text


def check_parquet(path: Path) -> None:
    """Raise if a file is of parquet, and pyarrow is missing."""
    if path.suffix == ".parquet":
        _pyarrow()


def write_table(path: str | os.PathLike[str], tables: Iterable[pd.DataFrame]) -> int:
    """Write tables of the same columns one after the other, and return their number of rows.

    As CSV or parquet by the file's suffix, with one table in memory at a time.
    """
    n_rows = 0
    writer: Any = None
    with written_aside(path) as aside, ExitStack() as stack:
        for table in tables:
            n_rows += len(table)
            if Path(path).suffix != ".parquet":
                is_first = writer is None
                if is_first:
                    writer = stack.enter_context(open(aside, "w", encoding="utf-8", newline=""))
                writer.write(to_csv(table, header=is_first))
                continue
            # Names differ from table to table: they are written as texts, not as categories.
            pyarrow, parquet = _pyarrow()
            texts = {name: table[name].astype(object) for name in _text_columns(table)}
            part = pyarrow.Table.from_pandas(table.assign(**texts), preserve_index=False)
            if writer is None:
                writer = stack.enter_context(parquet.ParquetWriter(aside, part.schema))
            writer.write_table(part.cast(writer.schema))
        if writer is None:
            raise InputError(f"there is no table to write to {os.fspath(path)!r}")
    return n_rows


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its module for parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "writing .parquet needs pyarrow, which is not installed: pip install "
            "'samsvae[parquet]', or give a name that ends in .csv"
        ) from None
    return pyarrow, pyarrow.parquet


Rows: TypeAlias = Iterator[sp.csr_matrix]


def write_h5ad(
    path: str | os.PathLike[str], adata: AnnData, rows: Callable[[], Rows] | None = None
) -> None:
    """Write an AnnData object as an h5ad file; for `rows` see `put_h5ad`."""
    with written_aside(path) as aside:
        put_h5ad(aside, adata, rows)


def put_h5ad(path: Path, adata: AnnData, rows: Callable[[], Rows] | None = None) -> None:
    """Write an AnnData object to a path that is already temporary.

    The file is made in memory: when the disk fills up, the HDF5 library may crash the process.
    `rows` returns the rows of X, some at a time, where they must not be in memory together: X of
    `adata` is then an empty sparse matrix of the same shape. It is called twice.
    """
    adata.strings_to_categoricals()  # as AnnData.write_h5ad does
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        write_elem(file, "/", adata)
        file.flush()
        path.write_bytes(file.id.get_file_image())
    if rows is not None:
        _fill(path, rows)


def _fill(path: Path, rows: Callable[[], Rows]) -> None:
    """Replace an empty X by rows."""
    widths, dtypes = zip(*((np.diff(block.indptr), block.dtype) for block in rows()), strict=True)
    starts = np.concatenate([[0], *widths]).cumsum()
    dtypes_of = {"data": np.result_type(*dtypes), "indices": np.dtype(np.int32)}
    n_bytes = sum(int(starts[-1]) * dtype.itemsize for dtype in dtypes_of.values())
    if n_bytes and hasattr(os, "posix_fallocate"):  # on a full disk the HDF5 library may crash
        with open(path, "rb+") as file:
            size = path.stat().st_size
            os.posix_fallocate(file.fileno(), size, n_bytes)
            file.truncate(size)
    with h5py.File(path, "r+") as file:
        x = file["X"]
        for name, dtype in dtypes_of.items():
            del x[name]
            x.create_dataset(name, (starts[-1],), dtype)
        x["indptr"][:] = starts
        place = 0
        for block in rows():
            part = slice(place, place + block.nnz)
            x["data"][part], x["indices"][part] = block.data, block.indices
            place = part.stop
