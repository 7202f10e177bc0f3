"""The replicates of cells at the command line."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

import samsvae
from helpers.command_line import TINY, Call
from helpers.screens import make_adata
from samsvae.settings.fields import toml
from samsvae.storage.tables import read_csv

QUICK = "--no-progress --n-particles 20"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicates")
    (folder / "tiny.toml").write_text(toml(TINY))
    adata = make_adata(n_cells=600)
    rng = np.random.default_rng(1)
    label = adata.obs["perturbation"].to_numpy(str)
    adata.obs["clone"] = np.char.add(label, rng.choice(["_1", "_2", "_3"], len(label)))
    rate = {name: rng.lognormal(0, 0.7, adata.n_vars) for name in adata.obs["clone"].unique()}
    adata.X = rng.poisson(adata.X * np.stack([rate[name] for name in adata.obs["clone"]])).astype(
        np.float32
    )
    adata.X[:, -1] += 1
    adata.write_h5ad(folder / "data.h5ad")
    return folder


def train(call: Call, out: str, more: str = "") -> None:
    done = call(f"train data.h5ad --config tiny.toml --split-key split --out {out} {more}")
    assert (done.code, done.errors) == (0, [])


def test_a_run_reads_them_again(folder: Path, call: Call) -> None:
    train(call, "told", "--replicate-key clone")
    train(call, "plain")
    n_calls = {}
    for name in ("told", "plain"):
        done = call(f"discoveries {name} data.h5ad --out {name}.csv {QUICK}")
        assert (done.code, done.errors) == (0, [])
        n_calls[name] = (read_csv(folder / f"{name}.csv")["q_value"] < 0.05).sum()
    assert n_calls["told"] < n_calls["plain"] / 2
    screen = samsvae.read_h5ad(folder / "data.h5ad", split_key="split", replicate_key="clone")
    expected = samsvae.discoveries(
        samsvae.load(folder / "told"), screen, n_particles=20, progress=False
    )
    found = read_csv(folder / "told.csv")
    np.testing.assert_allclose(found["sd"], expected["sd"], rtol=1e-4)


def test_resuming_needs_the_same_replicates(folder: Path, call: Call) -> None:
    del folder
    train(call, "part", "--replicate-key clone --max-steps 4")
    train(call, "part", "--replicate-key clone --max-steps 6 --resume")
    done = call(
        "train data.h5ad --config tiny.toml --split-key split --out part --max-steps 8 --resume"
    )
    assert done.code == 2
    assert done.errors


def test_inspect_proposes_them(folder: Path, call: Call) -> None:
    del folder
    done = call("inspect data.h5ad")
    assert "--replicate-key clone" in " ".join(shlex.split(done.out.splitlines()[-1]))
