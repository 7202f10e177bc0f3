"""Tables as CSV files, in which every name comes back as it was."""

from __future__ import annotations

import csv
import os
import re

import pandas as pd

from samsvae.errors import InputError
from samsvae.storage.files import write_text

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a text begins that a spreadsheet would take for a formula."""
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


_NAMES = ("cell", "condition", "gene", "metric", "perturbation", "predictor", "split")
"""Columns of names, which may all look like numbers."""


def _texts(table: pd.DataFrame) -> list[str]:
    """Return the columns that hold texts."""
    kinds = {name: pd.api.types.infer_dtype(table[name], skipna=False) for name in table}
    return [str(name) for name, kind in kinds.items() if kind in ("string", "categorical")]


def _guarded(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
