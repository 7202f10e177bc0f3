"""Tables as CSV files, in which every name comes back as it was, and as parquet."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

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
