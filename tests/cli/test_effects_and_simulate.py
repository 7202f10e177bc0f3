"""The commands effects and simulate: what they write and print."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.command_line import QUICK, Call


@pytest.mark.usefixtures("run")
def test_effects_prints(call: Call) -> None:
    done = call(f"effects run B+A A+C {QUICK}")
    assert done[::2] == (0, [])
    assert re.search(r"B\+A \(30 training cells\)", done.out)
    assert re.search(r"A\+C \(never seen in training\)", done.out)
    assert len(re.findall(r"\bg0\b", done.out)) == 2


def test_effects_writes(run: Path, call: Call, tmp_path: Path) -> None:
    csv, h5ad = tmp_path / "effects.csv", tmp_path / "effects.h5ad"
    for out in (csv, h5ad):
        assert call(f"effects run B+A A+C --seed 3 {QUICK} --out {out}")[::2] == (0, [])
    wanted = samsvae.load(run).effects(["B+A", "A+C"], n_particles=10, seed=3, progress=False)
    table = pd.read_csv(csv)
    ends = ["lower", "upper", "lower_50", "upper_50"]
    assert list(table.columns) == [
        "condition",
        "gene",
        "ate",
        "mc_se",
        *ends,
        "estimable",
        "unexpressed",
    ]
    pivoted = table.pivot(index="condition", columns="gene", values="ate")
    ate = pivoted.loc[["B+A", "A+C"], list(wanted.var_names)].to_numpy()
    np.testing.assert_allclose(ate, wanted.X, rtol=1e-6)
    written = ad.read_h5ad(h5ad)
    assert written.obs_names.tolist() == ["B+A", "A+C"]
    assert written.obs["condition"].tolist() == ["A+B", "A+C"]
    np.testing.assert_array_equal(written.X, wanted.X)
    for name in ("mc_se", "lower", "upper"):
        np.testing.assert_array_equal(written.layers[name], wanted.layers[name])


@pytest.mark.usefixtures("run")
def test_effects_of_all_conditions(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "all.h5ad"
    assert call(f"effects run {QUICK} --scale normalized --out {out}").code == 0
    assert ad.read_h5ad(out).obs_names.tolist() == ["A", "A+B", "B", "C"]
    assert call(f"effects run C {QUICK} --out {out} --overwrite").code == 0
    assert ad.read_h5ad(out).obs_names.tolist() == ["C"]


@pytest.mark.usefixtures("run")
def test_simulate(call: Call, tmp_path: Path) -> None:
    new, given_ = tmp_path / "new.h5ad", tmp_path / "given.h5ad"
    assert call(f"simulate run C A+C --n-cells 7 --out {new}")[::2] == (0, [])
    assert call(f"simulate run C A+C --cells control.h5ad --out {given_}")[::2] == (0, [])
    drawn, counterfactual = ad.read_h5ad(new), ad.read_h5ad(given_)
    assert drawn.obs["condition"].tolist() == ["C"] * 7 + ["A+C"] * 7
    cells = ad.read_h5ad("control.h5ad").obs_names.tolist()
    assert counterfactual.obs["cell"].tolist() == cells * 2
    for adata in (drawn, counterfactual):
        counts = adata.X.toarray()
        assert adata.var_names.tolist() == [f"g{i}" for i in range(12)]
        assert (counts >= 0).all()
        assert (counts == counts.round()).all()
        assert (counts.sum(1) > 0).all()
