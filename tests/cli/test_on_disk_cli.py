"""Counts that stay in their file, from the command line: a run keeps that setting."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import scipy.sparse as sp

from helpers.command_line import Call
from helpers.screens import make_adata

SMALL = "--n-latent 3 --n-hidden 8 --max-steps 30 --learning-rate 0.02 --no-progress"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on_disk_cli")
    adata = make_adata(n_cells=400)
    adata.X = sp.csr_matrix(adata.X)
    adata.write_h5ad(folder / "data.h5ad")
    return folder


def test_a_run_on_disk(folder: Path, call: Call) -> None:
    done = call(f"train data.h5ad --out run --split-key split --on-disk {SMALL}")
    assert (done.code, done.errors) == (0, [])
    assert (folder / "run" / "report.html").exists()
    assert "in_memory = false" in (folder / "run" / "config.toml").read_text()
    quick = "--n-particles 4 --effect-particles 30 --no-progress --no-report"
    tables = []
    for more in ("", "--in-memory"):
        done = call(f"evaluate run data.h5ad {quick} {more}")
        assert (done.code, done.errors) == (0, [])
        tables.append(pd.read_csv(folder / "run" / "scores.csv"))
    pd.testing.assert_frame_equal(*tables, rtol=1e-6)
    done = call("discoveries run data.h5ad --out table.csv --n-particles 30 --no-progress")
    assert (done.code, done.errors) == (0, [])


def test_what_cannot_stay_in_its_file(folder: Path, call: Call) -> None:
    adata = make_adata()
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(folder / "columns.h5ad")
    done = call(f"train columns.h5ad --out no --split-key split --on-disk {SMALL}")
    assert done.code == 2
    assert "stored by columns" in done.errors[0]
    assert not (folder / "no").exists()
