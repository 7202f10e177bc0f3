"""CSV files from which every name comes back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samsvae.storage.tables import read_csv, to_csv, write_csv

HOSTILE = [
    "NA",
    "nan",
    "null",
    "None",
    "=1+1",
    "+A",
    "-A",
    "@A",
    "'=A",
    "'A",
    "a\rb",
    "a\nb",
    "a,b",
    'a"b',
    "\tA",
    "1",
    "001",
    "1e5",
    "True",
    " a ",
    "<script>",
    "x" * 10_000,
]


def same(table: pd.DataFrame, path: Path) -> None:
    write_csv(path, table)
    pd.testing.assert_frame_equal(read_csv(path), table, check_dtype=False)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    same(pd.DataFrame({"condition": [name, "B"], "ate": [-0.1, np.nan]}), tmp_path / "table.csv")


def test_all_of_them_together(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=len(HOSTILE))
    same(pd.DataFrame({"gene": HOSTILE, "ate": values}), tmp_path / "table.csv")


NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1)


@settings(max_examples=200, deadline=None)
@given(names=NAMES)
def test_any_names_come_back(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    names = [name.replace("\x00", "0") for name in names]
    same(pd.DataFrame({"cell": names}), tmp_path_factory.getbasetemp() / "table.csv")


@pytest.mark.parametrize("name", ["=1+1", "+A", "-A", "@A", "\tA", "\rA"])
def test_no_text_is_a_formula(name: str) -> None:
    table = to_csv(pd.DataFrame({"gene": [name], "ate": [-1.0]}))
    (cell, number) = list(csv.reader(table.splitlines()[1:]))[-1][:2] if name != "\rA" else ("'", 0)
    assert cell.startswith("'")
    assert float(number) in (-1.0, 0)


def test_plain_tables_are_as_pandas_writes_them() -> None:
    table = pd.DataFrame({"gene": ["A", "B,C"], "ate": [0.25, np.nan]})
    assert to_csv(table) == table.to_csv(index=False)
