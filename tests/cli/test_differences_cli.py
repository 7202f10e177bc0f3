"""Differences between contexts, and interactions, at the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.command_line import Call
from helpers.screens import make_adata
from samsvae.cli.tables import context_table, interaction_table
from samsvae.storage.tables import read_csv

KEYS = "--split-key split --context-key batch --learn-interactions"
SMALL = "--n-latent 3 --n-hidden 8 --max-steps 20 --no-progress"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("differences")
    make_adata().write_h5ad(folder / "data.h5ad")
    return folder


@pytest.fixture
def run(folder: Path, call: Call) -> Path:
    """Return a finished run, made once, with contexts and interactions."""
    if not (folder / "run").exists():
        done = call(f"train data.h5ad --out run {KEYS} {SMALL}")
        assert (done.code, done.errors) == (0, [])
    return folder / "run"


@pytest.mark.parametrize("command", ["contexts", "interactions"])
def test_all_rows_are_written(run: Path, call: Call, tmp_path: Path, command: str) -> None:
    out = tmp_path / "rows.csv"
    done = call(f"{command} {run} --out {out}")
    assert (done.code, done.errors) == (0, [])
    model = samsvae.load(run)
    expected = model.context_differences() if command == "contexts" else model.interactions()
    likely = int((expected["probability"] > 0.5).sum())
    assert f"{likely} of {len(expected)} possible" in done.out
    table = read_csv(out)
    assert list(table.columns) == list(expected.columns)
    assert table["mechanism"].tolist() == expected["mechanism"].tolist()
    np.testing.assert_allclose(table["shift"], expected["shift"], rtol=1e-5)
    assert "exists" in call(f"{command} {run} --out {out}").errors[0]


@pytest.mark.parametrize(
    ("command", "expected"), [("contexts", "context_key"), ("interactions", "learn_interactions")]
)
def test_a_model_without_them_says_how_to_have_them(
    folder: Path, call: Call, command: str, expected: str
) -> None:
    if not (folder / "plain").exists():
        assert call(f"train data.h5ad --out plain --split-key split {SMALL}").code == 0
    done = call(f"{command} plain")
    assert done.code == 2
    assert expected in done.errors[0]


def test_rows_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Long names, too, on a terminal of 80 columns."""
    from rich.console import Console

    shift = {
        "mechanism": "z12",
        "probability": 0.98765,
        "shift": -1.234,
        "n_train_cells": 1234,
    }
    names = {"perturbation": "ENSG00000170581", "context": "unstimulated", "against": "IFN"}
    tables = [
        context_table(pd.DataFrame([names | shift])),
        interaction_table(pd.DataFrame([{"pair": "CBL+PTPN9"} | shift])),
    ]
    for table in tables:
        Console(width=80).print(table)
    shown = capsys.readouterr().out
    for text in ("z12", "0.988", "-1.23", "1,234", "CBL+PTPN9", "unstimulated", "ENSG00000170581"):
        assert text in shown
    assert "…" not in shown
