"""The screen of an experiment: copied by blocks if its counts are in a file, never exchanged."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from helpers.screens import make_adata
from samsvae import InputError, Screen, datasets
from samsvae.data import source as stored
from samsvae.runs.compare import comparison
from samsvae.runs.run import (
    SCREEN,
    ExperimentDirectory,
    digest_of,
    read_experiment_data,
    write_experiment_data,
)
from samsvae.settings.questions import ScoreSettings
from samsvae.storage.files import read_json, write_json

KEYS = {"split_key": "split", "batch_key": "batch", "sgrna_key": "guide", "replicate_key": "clone"}


def written(folder: Path, kind: str = "counts") -> Path:
    adata = make_adata()
    adata.X = sp.csr_matrix(adata.X)
    if kind == "real values":
        adata.X = sp.csr_matrix(adata.X * -0.5)
    if kind == "large counts":
        adata.X.data[-1] = 70_000  # of the last block, so that its type is wider
    adata.obs["guide"] = adata.obs["perturbation"].astype(str) + "_1"
    adata.obs["clone"] = adata.obs["perturbation"].astype(str) + np.where(
        np.arange(len(adata)) % 2, "_a", "_b"
    )
    adata.obs["cycle"] = np.resize(["G1", "S"], len(adata))
    adata.obs["split_by"] = adata.obs["batch_of"] = np.resize(["x", "y", "z"], len(adata))
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
    write_experiment_data(tmp_path / "lab", file[rows])
    again = read_experiment_data(tmp_path / "lab")
    assert not again.is_in_memory
    assert again.digest == held.digest
    assert again.sgrna is not None
    assert held.sgrna is not None
    np.testing.assert_array_equal(np.asarray(again.sgrna), np.asarray(held.sgrna))
    assert again.replicate is not None
    np.testing.assert_array_equal(np.asarray(again.replicate), np.asarray(held.replicate))
    for name in ("cycle", "split_by", "batch_of"):
        assert again.obs is not None
        assert held.obs is not None
        assert list(again.obs[name]) == list(held.obs[name])


FULL = """
import pathlib, resource, signal, sys
from samsvae import InputError, Screen
from samsvae.runs.run import write_experiment_data
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
screen = Screen.open(sys.argv[1], in_memory=False, split_key="split")
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_experiment_data(pathlib.Path(sys.argv[2]), screen)
except InputError as error:
    sys.exit(f"told: {error}")
"""


def test_a_full_disk_is_an_error_before_hdf5_fails(tmp_path: Path) -> None:
    path, lab = written(tmp_path), tmp_path / "lab"
    write_experiment_data(lab, Screen.open(path, in_memory=False, split_key="split"))
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


def test_an_experiment_is_not_resumed_with_another_screen(tmp_path: Path) -> None:
    experiment = comparison(
        models="cpa-vae",
        baselines="none",
        seeds=1,
        scale="log",
        scoring=ScoreSettings(),
        options={"max_steps": 5},
    )
    screen, other = (
        datasets.simulated_screen(n_perturbations=n, n_combinations=1, n_genes=20, seed=0)
        for n in (4, 5)
    )

    def opened(screen: Screen, *, resume: bool) -> AbstractContextManager[None]:
        source = {"screen": digest_of(screen)}
        directory = ExperimentDirectory(tmp_path / "c")
        return directory.opened(experiment, lambda: screen, resume=resume, source=source)

    with opened(screen, resume=False):
        pass
    split = ["train" if part == "valid" else str(part) for part in screen.split]
    for changed in (other, screen[:50], screen.with_split(split)):
        with (
            pytest.raises(InputError, match="was started with another screen: resume with"),
            opened(changed, resume=True),
        ):
            pass
    record = read_json(tmp_path / "c/experiment.json")
    for kept in (record, {name: value for name, value in record.items() if name != "data"}):
        write_json(tmp_path / "c/experiment.json", kept)  # also of an earlier version
        with opened(screen, resume=True):
            assert read_experiment_data(tmp_path / "c").genes == screen.genes
