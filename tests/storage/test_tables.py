"""CSV files from which every name comes back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samsvae import InputError
from samsvae.storage.tables import read_csv, to_csv, write_csv, write_table

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


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
@pytest.mark.parametrize("kind", [object, "string", "category"])
def test_a_formula_beside_a_missing_value_is_guarded(
    missing: object, kind: object, tmp_path: Path
) -> None:
    table = pd.DataFrame({"gene": pd.Series(["=A1", missing, "B"], dtype=kind)})
    assert to_csv(table).splitlines()[1] == "'=A1"
    write_csv(tmp_path / "table.csv", table)
    back = read_csv(tmp_path / "table.csv")["gene"]
    assert back.tolist()[::2] == ["=A1", "B"]
    assert pd.isna(back[1])


def test_a_formula_among_other_values_is_guarded() -> None:
    assert to_csv(pd.DataFrame({"dose": [1.5, "=A1"]})).splitlines()[2] == "'=A1"


@pytest.mark.parametrize("name", ["=1+1", "@A", "\tA", "a\nb", "a\rb", "'=A"])
def test_names_of_columns_are_guarded(name: str, tmp_path: Path) -> None:
    table = pd.DataFrame({name: [1.5], "gene": ["A"]})
    assert not to_csv(table).startswith(("=", "@", "\t"))
    same(table, tmp_path / "table.csv")
    write_table(tmp_path / "several.csv", [table, table])
    assert read_csv(tmp_path / "several.csv").columns.tolist() == [name, "gene"]


def test_several_tables_are_one(tmp_path: Path) -> None:
    table = pd.DataFrame({"gene": ["=A", None], "ate": [1.0, 2.0]})
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"table{suffix}"
        assert write_table(path, iter([table, table])) == 4
        back = read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
        assert back["gene"].fillna("").tolist() == ["=A", "", "=A", ""]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_without_a_table_no_file_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"
    with pytest.raises(InputError, match="there is no table to write"):
        write_table(path, [])
    assert list(tmp_path.iterdir()) == []
