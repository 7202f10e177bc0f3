"""The screen of an experiment whose counts stay in a file: copied by blocks, and left there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from helpers.screens import make_adata
from samsvae import Screen
from samsvae.data import source as stored
from samsvae.runs.jobs import SCREEN, read_material, write_material

KEYS = {"split_key": "split", "batch_key": "batch", "sgrna_key": "guide"}


def written(folder: Path, kind: str = "counts") -> Path:
    adata = make_adata()
    adata.X = sp.csr_matrix(adata.X)
    if kind == "real values":
        adata.X = sp.csr_matrix(adata.X * -0.5)
    if kind == "large counts":
        adata.X.data[-1] = 70_000  # of the last block, so that its type is wider
    adata.obs["guide"] = adata.obs["perturbation"].astype(str) + "_1"
    adata.write_h5ad(folder / "data.h5ad")
    return folder / "data.h5ad"


@pytest.mark.parametrize("kind", ["counts", "large counts", "real values"])
def test_counts_in_a_file_go_to_another(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "ROWS", 50)
    counts = kind != "real values"
    path = written(tmp_path, kind)
    file = Screen.open(path, in_memory=False, counts=counts, **KEYS)
    rows = np.random.default_rng(0).permutation(240)[:130]
    held = Screen.open(path, counts=counts, **KEYS)[rows]
    monkeypatch.setattr(stored.StoredCounts, "to_memory", None)  # never all of it at once
    write_material(tmp_path / "lab", file[rows])
    again = read_material(tmp_path / "lab")
    assert not again.is_in_memory
    assert again.digest == held.digest
    assert again.sgrna is not None
    assert held.sgrna is not None
    np.testing.assert_array_equal(np.asarray(again.sgrna), np.asarray(held.sgrna))


FULL = """
import pathlib, resource, signal, sys
from samsvae import InputError, Screen
from samsvae.runs.jobs import write_material
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
screen = Screen.open(sys.argv[1], in_memory=False, split_key="split")
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_material(pathlib.Path(sys.argv[2]), screen)
except InputError as error:
    sys.exit(f"told: {error}")
"""


def test_a_full_disk_is_told_before_hdf5_finds_it(tmp_path: Path) -> None:
    path, lab = written(tmp_path), tmp_path / "lab"
    write_material(lab, Screen.open(path, in_memory=False, split_key="split"))
    size = (lab / SCREEN).stat().st_size
    before = (lab / SCREEN).read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL, path, lab, str(size - 100)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    assert "told: cannot write" in done.stderr
    assert (lab / SCREEN).read_bytes() == before
    assert {one.name for one in lab.iterdir()} == {SCREEN, "screen.json"}
