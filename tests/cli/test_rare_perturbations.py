"""Perturbations of one or two cells: the split of the command line does not make it fail."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from helpers.command_line import Call
from helpers.screens import make_adata
from samsvae.settings.model import MODEL_SETTINGS

QUICK = "--no-progress --n-particles 4 --effect-particles 10"
TRAIN = "--n-latent 3 --n-hidden 6 --max-steps 4 --no-progress"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rare")
    adata = make_adata()
    label = adata.obs["perturbation"].astype(object)
    label.iloc[[1]], label.iloc[[2, 3]], label.iloc[[6]] = "once", "twice", "once+C"
    adata.obs["perturbation"] = label
    adata.write_h5ad(folder / "data.h5ad")
    adata.obs.loc[adata.obs["perturbation"].isin(["B+A", "twice"]), "split"] = "test"
    adata.write_h5ad(folder / "heldout.h5ad")
    return folder


@pytest.mark.parametrize("model", MODEL_SETTINGS)
def test_every_model_is_trained_and_scored(folder: Path, call: Call, model: str) -> None:
    assert call(f"train data.h5ad --out {model} --model {model} {TRAIN}").errors == []
    done = call(f"evaluate {model} data.h5ad {QUICK}")
    assert (done.code, done.errors) == (0, [])
    summary = json.loads((folder / model / "metrics.json").read_text())["test"]
    assert summary["n_left_out"] == 0
    assert summary["n_conditions"] >= 4


@pytest.mark.slow
def test_all_models_are_compared(folder: Path, call: Call) -> None:
    done = call(f"compare data.h5ad --out cmp --seeds 1 --baselines additive --jobs 1 {TRAIN}")
    assert (done.code, done.errors) == (0, [])
    assert set(pd.read_csv(folder / "cmp" / "table.csv")["predictor"]) >= set(MODEL_SETTINGS)


def test_what_a_model_cannot_answer_is_left_out_and_named(folder: Path, call: Call) -> None:
    assert call(f"train heldout.h5ad --out out --split-key split {TRAIN}").errors == []
    done = call(f"evaluate out heldout.h5ad --no-baselines {QUICK}")
    assert (done.code, done.errors) == (0, [])
    assert any("sams-vae has no prediction for 1 conditions" in note for note in done.notes)
    assert any("'twice'" in note for note in done.notes)
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert {split: one["n_left_out"] for split, one in metrics.items()} == {"test": 0, "unseen": 1}
    assert metrics["unseen"]["iwelbo"] != metrics["test"]["iwelbo"]
    scores = pd.read_csv(folder / "out" / "scores.csv")
    pooled = scores[scores["condition"] == "(all)"].set_index(["split", "metric"])["value"]
    for split, one in metrics.items():
        assert one["mae"] == pytest.approx(pooled[split, "mae"])
