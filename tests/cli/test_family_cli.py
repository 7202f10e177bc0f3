"""The command line for every member of the family: its settings, its likelihoods, its answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.command_line import Call
from helpers.screens import make_adata
from samsvae.estimators import ESTIMATORS, estimator
from samsvae.estimators.base import Estimator
from samsvae.settings.fields import Settings, read_toml
from samsvae.settings.model import ModelChoice
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import TrainPlan

NAMES = [kind.name for kind in ESTIMATORS]
TINY = "--n-latent 3 --n-hidden 6 --batch-size 64 --n-particles 2 --split-key split --no-progress"
QUICK = "--no-progress --n-particles 20"
OPTIONS: dict[str, str] = {
    "sams-vae": "--n-hidden-embedding 5 --mask beta_bernoulli --beta-b 5",
    "cpa-vae": "--embedding-scale 0.5 --no-basal-given-shift",
    "svae-plus": "--beta-b 5 --unseen-as-control",
    "conditional-vae": "--n-layers-decoder 2",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    adata = make_adata()
    adata.write_h5ad(folder / "data.h5ad")
    adata.X = np.log1p(adata.X) - 1
    adata.write_h5ad(folder / "real.h5ad")
    return folder


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, folder: Path, call: Call) -> Path:
    """Return a finished run of each model, made once."""
    name = str(request.param)
    path = folder / name
    if not path.exists():
        done = call(
            f"train data.h5ad --out {name} --model {name} --max-steps 20 {TINY} {OPTIONS[name]}"
        )
        assert (done.code, done.errors) == (0, [])
    return path


def test_the_config_holds_the_models_own_settings(run: Path) -> None:
    config = read_toml(run / "config.toml")
    kind = estimator(config["model"])
    assert run.name == kind.name == config["model"]
    mine = Settings(ScreenSettings, ModelChoice, kind, TrainPlan).fields
    absent = {name for name, p in mine.items() if p.default is None}
    assert mine.keys() - absent <= config.keys() <= mine.keys()
    assert ("embedding_given_mask" in config) == (kind is samsvae.SAMSVAE)
    assert ("beta_b" in config) == (kind in (samsvae.SAMSVAE, samsvae.SVAEPlus))
    assert ("saturating_dose" in config) == (kind in (samsvae.SAMSVAE, samsvae.CPAVAE))


def test_the_saved_model_has_the_options(run: Path) -> None:
    model = samsvae.load(run)
    assert (type(model).name, model.n_latent, model.n_hidden) == (run.name, 3, 6)
    wanted: dict[str, dict[str, Any]] = {
        "sams-vae": {"mask": "beta_bernoulli", "beta_b": 5.0, "n_hidden_embedding": 5},
        "cpa-vae": {"embedding_scale": 0.5, "basal_given_shift": False},
        "svae-plus": {"beta_b": 5.0, "unseen_as_control": True},
        "conditional-vae": {"n_layers_decoder": 2},
    }
    assert wanted[run.name].items() <= model.hyperparameters.items()
    pd.testing.assert_frame_equal(pd.read_csv(run / "history.csv"), model.history)


@pytest.mark.slow
def test_evaluate_effects_and_simulate(run: Path, call: Call, tmp_path: Path) -> None:
    done = call(f"evaluate {run} data.h5ad --effect-particles 20 {QUICK}")
    assert (done.code, done.errors) == (0, [])
    summary = json.loads((run / "metrics.json").read_text())["test"]
    assert (summary["scale"], summary["n_conditions"], summary["n_cells"]) == ("lfc", 4, 45)
    assert np.isfinite(summary["iwelbo"])
    table, drawn = tmp_path / "effects.csv", tmp_path / "cells.h5ad"
    done = call(f"effects {run} B+A A --seed 3 {QUICK} --out {table}")
    assert (done.code, done.errors) == (0, [])
    model: Estimator = samsvae.load(run)
    wanted = model.effects(["B+A", "A"], n_particles=20, seed=3, progress=False)
    ate = pd.read_csv(table).pivot(index="condition", columns="gene", values="ate")
    ate = ate.loc[["B+A", "A"], list(wanted.var_names)]
    np.testing.assert_allclose(ate, wanted.X, rtol=1e-6, atol=1e-12)
    assert call(f"effects {run} B {QUICK}").code == 0
    done = call(f"simulate {run} A+B control --n-cells 7 --seed 2 --out {drawn}")
    assert (done.code, done.errors) == (0, [])
    cells = ad.read_h5ad(drawn)
    expected = model.simulate(["A+B", "control"], n_cells=7, seed=2)
    np.testing.assert_array_equal(cells.X.toarray(), expected.X.toarray())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "likelihood"), list(zip(NAMES, ["poisson", "gaussian"] * 2, strict=True))
)
def test_other_likelihoods(call: Call, folder: Path, name: str, likelihood: str) -> None:
    data, more = ("real.h5ad", "--no-counts") if likelihood == "gaussian" else ("data.h5ad", "")
    out = folder / f"{name}-{likelihood}"
    line = f"train {data} --out {out} --model {name} --likelihood {likelihood} {more} {TINY}"
    done = call(f"{line} --max-steps 10")
    assert (done.code, done.errors) == (0, [])
    config = read_toml(out / "config.toml")
    assert (config["likelihood"], config["counts"]) == (likelihood, likelihood == "poisson")
    done = call(f"evaluate {out} {data} --effect-particles 20 {QUICK}")
    assert (done.code, done.errors) == (0, [])
    summary = json.loads((out / "metrics.json").read_text())["test"]
    assert summary["scale"] == "mean"
    assert np.isfinite(summary["iwelbo"])
    assert ad.read_h5ad(out / "effects.h5ad").shape == (4, 12)
    done = call(f"effects {out} A {QUICK}")
    assert (done.code, done.errors) == (0, [])
    assert "scale 'mean'" in " ".join(done.out.split())
    done = call(f"simulate {out} A --cells {data} --out {out / 'cells.h5ad'}")
    assert (done.code, done.errors) == (0, [])
    assert ad.read_h5ad(out / "cells.h5ad").shape == (240, 12)


def test_resume_gives_the_numbers_of_a_whole_run(call: Call, folder: Path) -> None:
    options = "--validate-every 5 --warmup-steps 8 --alignment none"
    line = f"train data.h5ad --model svae-plus {TINY} {options}"
    whole, part = folder / "whole", folder / "part"
    assert call(f"{line} --out {whole} --max-steps 20").code == 0
    assert call(f"{line} --out {part} --max-steps 10").code == 0
    done = call(f"{line} --out {part} --max-steps 20 --resume")
    assert (done.code, done.errors) == (0, [])
    assert (whole / "model.safetensors").read_bytes() == (part / "model.safetensors").read_bytes()
    done = call(f"{line} --out {part} --max-steps 5 --resume")
    assert done.code == 0
    assert any("no step is taken" in note for note in done.notes)
    done = call(f"{line} --out {part} --resume --beta-b 3")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "was started with beta_b = 2.0, not 3.0" in done.errors[0]
    done = call(f"{line.replace('svae-plus', 'conditional-vae')} --out {part} --resume")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "was started with model = 'svae-plus', not 'conditional-vae'" in done.errors[0]


BARE = "train data.h5ad --max-steps 1"
MISTAKES = [
    ("--model svae-plsu", "no model 'svae-plsu': the nearest is 'svae-plus'"),
    ("--model cpa", "no model 'cpa': .*'cpa-vae'"),
    (
        "--model conditional-vae --mask-prob 0.1",
        "'conditional-vae' has no setting 'mask_prob': .* --model, such as 'sams-vae'$",
    ),
    ("--model cpa-vae --beta-a 2", "'cpa-vae' has no setting 'beta_a': .*'sams-vae', 'svae-plus'$"),
    ("--model svae-plus --set mask=bernoulli", "'svae-plus' has no setting 'mask'"),
    ("--model svae-plus --saturating-dose", "no setting 'saturating_dose': .*'sams-vae', 'cpa-vae"),
    ("--unseen-as-control", "'sams-vae' has no setting 'unseen_as_control': .*'svae-plus'$"),
    ("--model cpa-vae --mask-weight 0.5", "mask_weight is 0.5, but this model has no such"),
    ("--mask bernouli", "no mask 'bernouli': the nearest is 'bernoulli'"),
    ("--likelihood poison", "no likelihood 'poison': the nearest is 'poisson'"),
    ("--likelihood gaussian", "the gaussian likelihood needs real values, not counts"),
    ("--no-counts", "the negative_binomial likelihood needs counts, not real values"),
    ("--objective iwelbo --closed-form-kl", "closed_form_kl is for the ELBO"),
    ("--objective elob", '"elob" for --objective. .*mean "elbo"'),
    ("--basal-weight -1", "basal_weight is -1.0: expected a number at least 0"),
    ("--warmup-steps -1", "warmup_steps is -1: expected a whole number of at least 0"),
    ("--model svae-plus --beta-b 0", "beta_b is 0.0: expected a number above 0"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_mistakes_get_one_line(call: Call, tmp_path: Path, options: str, message: str) -> None:
    done = call(f"{BARE} --out {tmp_path / 'new'} {options}")
    assert (done.code, len(done.errors)) == (2, 1), done
    assert re.match(f"samsvae: .*{message}", done.errors[0]), done.errors
    assert not (tmp_path / "new").exists()


def test_a_config_of_another_model_is_refused(call: Call, folder: Path) -> None:
    (folder / "other.toml").write_text('model = "cpa-vae"\nmask_prob = 0.1\n')
    done = call(f"{BARE} --out sams --config other.toml")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "'cpa-vae' has no setting 'mask_prob'" in done.errors[0]
    done = call(f"{BARE} --out sams --config other.toml --model sams-vae {TINY}")
    assert (done.code, done.errors) == (0, [])
    assert read_toml(folder / "sams" / "config.toml")["mask_prob"] == 0.1


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("data.h5ad", "--model cpa-vae --mask-weight 0.5", "no such latent variable"),
        ("held_out.h5ad", "--model svae-plus", r"never seen in training: 'A\+B'"),
    ],
)
def test_a_mistake_destroys_no_run(
    call: Call, folder: Path, tmp_path: Path, data: str, options: str, message: str
) -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "B+A", "split"] = "valid"
    adata.write_h5ad(folder / "held_out.h5ad")
    out = tmp_path / "run"
    assert call(f"{BARE} --out {out} {TINY}").code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    line = f"train {data} --out {out} --overwrite {options} {TINY}"
    done = call(line)
    assert (done.code, len(done.errors)) == (2, 1), done
    assert re.search(message, done.errors[0])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


TABLES = """
n_latent = 3
n_hidden = 6
max_steps = 2
progress = false
[sams-vae]
n_hidden_embedding = 5
[svae-plus]
n_latent = 4
beta_b = 7.0
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"model": "sams-vae", "n_latent": 3, "n_hidden_embedding": 5}),
        ("--model svae-plus", {"model": "svae-plus", "n_latent": 4, "beta_b": 7.0}),
        ("--model svae-plus --beta-b 9", {"n_latent": 4, "beta_b": 9.0}),
        ("--set model=cpa-vae", {"model": "cpa-vae", "n_latent": 3}),
    ],
)
def test_a_table_of_the_file_is_of_its_model(
    call: Call, tmp_path: Path, options: str, expected: dict[str, Any]
) -> None:
    (tmp_path / "tables.toml").write_text(TABLES)
    line = f"train data.h5ad --split-key split --config {tmp_path}/tables.toml --out {tmp_path}/r"
    assert call(f"{line} {options}").code == 0
    config = read_toml(tmp_path / "r" / "config.toml")
    assert config | expected == config


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[svae-plu]\nbeta_b = 1.0", "no model 'svae-plu': the nearest is 'svae-plus'"),
        ("[svae-plus]\nbeta_c = 1.0", "no setting in '.*t.toml': 'beta_c': the nearest is 'beta_"),
        ("[sams-vae]\nunseen_as_control = true", "'sams-vae' has no setting 'unseen_as_control'"),
    ],
)
def test_a_table_with_a_mistake(call: Call, tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "t.toml").write_text(table)
    done = call(f"train data.h5ad --config {tmp_path}/t.toml --out {tmp_path}/r")
    assert (done.code, len(done.errors)) == (2, 1)
    assert re.search(message, done.errors[0]), done.errors
