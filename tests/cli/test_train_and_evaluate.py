"""The commands train and evaluate: what they write and print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

import samsvae
from helpers.command_line import QUICK, TINY, TRAIN, Call
from helpers.screens import SMALL
from samsvae.settings.fields import read_toml
from samsvae.train import validator as validation


def test_train_writes_a_run(run: Path) -> None:
    names = {"config.toml", "model.json", "model.safetensors", "history.csv"}
    names |= {"report.html", "report"}
    assert names | {"checkpoint.safetensors"} == {path.name for path in run.iterdir()} - {
        *("metrics.json", "scores.csv", "effects.h5ad")
    }
    config = read_toml(run / "config.toml")
    assert config | TINY == config
    assert config["split_key"] == "split"
    model = samsvae.load(run)
    assert {name: model.hyperparameters[name] for name in SMALL} == SMALL
    history = pd.read_csv(run / "history.csv")
    pd.testing.assert_frame_equal(history, model.history)
    assert history["step"].tolist() == [4]


@pytest.mark.parametrize("most", ["", ", with the maximum number of draws"])
def test_train_tells_the_error_of_the_validation_elbo(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch, most: str
) -> None:
    monkeypatch.setattr(validation, "PRECISE", 1e-3 if most else 1.0)
    done = call(TRAIN.replace("new", "told" + str(len(most))))
    (history,) = pd.read_csv(folder / f"told{len(most)}" / "history.csv").itertuples()
    error = f"mc_se {history.valid_elbo_mc_se:.3f}{most}"
    line = f"best validation ELBO {history.valid_elbo:.3f} ({error}) nats per cell; the model"
    assert line in " ".join(done.out.split())


def test_train_gives_the_numbers_of_python(run: Path, screen: samsvae.Screen) -> None:
    training = {name: value for name, value in TINY.items() if name not in SMALL}
    model = samsvae.SAMSVAE(screen, **SMALL).train(**training)
    loaded = samsvae.load(run).mask_probabilities()
    pd.testing.assert_frame_equal(model.mask_probabilities(), loaded, check_exact=True)


def test_evaluate(run: Path, call: Call) -> None:
    for split in ("valid", "test"):
        done = call(f"evaluate run data.h5ad --split {split} --effect-particles 20 {QUICK}")
        assert done[::2] == (0, [])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() == {"valid", "test"}
    summary = metrics["test"]
    keys = {"iwelbo", "iwelbo_mc_se", "ate_pearson", "ate_pearson_top20", "rmse", "coverage_90"}
    assert keys <= summary.keys()
    assert (summary["n_particles"], summary["n_cells"], summary["n_conditions"]) == (10, 45, 4)
    assert summary.pop("scale") == "lfc"
    known = {name: value for name, value in summary.items() if value is not None}
    assert {"iwelbo", "ate_pearson"} < set(known)
    for name, value in known.items():
        told = re.search(rf"\b{name} .* (-?[\d.]+) ", done.out)
        assert told, name
        assert float(told[1]) == pytest.approx(value, abs=1e-4)
    screen = samsvae.read_h5ad("data.h5ad", split_key="split")
    iwelbo = samsvae.load(run).iwelbo(screen.test, n_particles=10, progress=False)
    assert summary["iwelbo"] == pytest.approx(iwelbo["iwelbo"].mean())
    assert ad.read_h5ad(run / "effects.h5ad").shape == (4, 12)
    scores = pd.read_csv(run / "scores.csv")
    assert {"sams-vae", "additive", "technical replicate"} < set(scores["predictor"])
    assert set(scores["split"]) == {"valid", "test"}  # of both calls
    mine = scores[scores["split"] == "test"].set_index(["predictor", "condition", "metric"])[
        "value"
    ]
    for name in keys - {"iwelbo_mc_se"}:
        assert mine["sams-vae", "(all)", name] == pytest.approx(summary[name])
    assert "condition-mean" in done.out
    # What speaks against the model in the terminal is what the report says.
    titles = re.findall(r"^caution: ([^.]+)\.", done.out, re.MULTILINE)
    kept = re.search(r"^to keep in mind: (.*) \(", done.out, re.MULTILINE)
    assert kept
    shown = (run / "report.html").read_text()
    own = {title.lower() for title in (*titles, *kept[1].split(", "))}
    assert "a baseline wins" in own or "intervals are off" in own
    assert all(title in shown.lower() for title in own)


def test_evaluate_without_baselines(folder: Path, run: Path, call: Call) -> None:
    (run / "scores.csv").unlink(missing_ok=True)
    options = f"--effect-particles 20 {QUICK}"
    done = call(f"evaluate run data.h5ad --no-baselines {options}")
    assert done[::2] == (0, [])
    assert set(pd.read_csv(run / "scores.csv")["predictor"]) == {"sams-vae"}
    adata = ad.read_h5ad(folder / "data.h5ad")
    adata[adata.obs["split"] == "test"].write_h5ad(folder / "only_test.h5ad")
    done = call(f"evaluate run only_test.h5ad {options}")
    assert done[::2] == (0, [])
    assert "no training cells" in done.out
    assert "the report is" not in done.out  # it is of the cells that were learned from
    assert set(pd.read_csv(run / "scores.csv")["predictor"]) == {"sams-vae"}


@pytest.mark.parametrize("data", ["other_order", "more_genes"])
def test_evaluate_matches_genes(run: Path, call: Call, data: str) -> None:
    done = call(f"evaluate run {data}.h5ad --effect-particles 20 {QUICK}")
    assert done[::2] == (0, [])
    notes = [note for note in done.notes if "linear-pca" not in note]  # targets are no genes here
    assert all("1 genes" in note for note in notes)
    assert bool(notes) == (data == "more_genes")


def test_split_made_by_train_is_used_by_evaluate(folder: Path, call: Call) -> None:
    """Also where the names of cells are numbers."""
    run = folder / "random"
    assert call(f"train numbered.h5ad --out {run} --config tiny.toml").code == 0
    split = pd.read_csv(run / "split.csv", dtype=str).set_index("cell")["split"]
    assert split.value_counts().to_dict() == {"train": 155, "valid": 35, "test": 50}
    split[split.index[split == "train"][:100]] = "test"
    (run / "split.csv").write_text(split.sample(frac=1, random_state=0).to_csv())
    done = call(f"evaluate {run} numbered.h5ad --effect-particles 20 {QUICK}")
    assert done[::2] == (0, [])
    assert json.loads((run / "metrics.json").read_text())["test"]["n_cells"] == 150


@pytest.mark.parametrize(
    ("more", "n_latent"),
    [("", 4), ("--set n_latent=3", 3), ("--n-latent 2", 2), ("--set n-latent=2 --n-latent 2", 2)],
)
def test_options_and_set_win_over_the_file(
    call: Call, tmp_path: Path, more: str, n_latent: int
) -> None:
    assert call(f"{TRAIN.replace('new', str(tmp_path / 'out'))} {more}").code == 0
    assert read_toml(tmp_path / "out" / "config.toml")["n_latent"] == n_latent
    assert samsvae.load(tmp_path / "out").hyperparameters["n_latent"] == n_latent
