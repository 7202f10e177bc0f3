"""A folder of good and bad files, and a finished run in it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.command_line import TINY, TRAIN, Call
from helpers.screens import make_adata
from samsvae.settings.fields import toml


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(toml(TINY))
    adata = make_adata()
    adata.write_h5ad(folder / "data.h5ad")
    adata[:, 1:].write_h5ad(folder / "fewer_genes.h5ad")
    adata[:, ::-1].write_h5ad(folder / "other_order.h5ad")
    make_adata(n_genes=13).write_h5ad(folder / "more_genes.h5ad")
    adata[adata.obs["perturbation"] == "control"].write_h5ad(folder / "control.h5ad")
    whole = (folder / "data.h5ad").read_bytes()
    (folder / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    (folder / "text.h5ad").write_text("cell,gene\n")
    h5py.File(folder / "plain.h5ad", "w").close()
    numbered = adata.copy()
    numbered.obs_names = [f"{i:03d}" for i in range(240)]
    numbered.write_h5ad(folder / "numbered.h5ad")
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(folder / "log.h5ad")
    adata.X = adata.layers.pop("counts")
    adata.X[:3] = 0
    adata.write_h5ad(folder / "empty_cells.h5ad")
    (folder / "unknown.toml").write_text("n_latnt = 3\n")
    (folder / "type.toml").write_text('n_latent = "four"\n')
    (folder / "broken.toml").write_text("n_latent: 3\n")
    (folder / "taken.csv").write_text("taken\n")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def run(folder: Path, call: Call) -> Path:
    """Return a finished run, made once."""
    if not (folder / "run").exists():
        assert call(TRAIN.replace("new", "run"))[::2] == (0, [])
    return folder / "run"
