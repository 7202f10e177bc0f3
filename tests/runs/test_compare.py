"""samsvae compare: each model is trained and scored once, also if a run is interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.command_line import Call
from helpers.screens import make_adata
from samsvae.benchmark.baselines import BASELINES
from samsvae.benchmark.evaluate import Evaluation, evaluated
from samsvae.estimators import ESTIMATORS
from samsvae.runs import jobs as job
from samsvae.runs.compare import comparison, table_of
from samsvae.settings.questions import ScoreSettings
from samsvae.train.step import PlainStep

MODELS = "sams-vae,conditional-vae"
LINE = (
    f"compare screen.h5ad --models {MODELS} --seeds 2 --split-key split --max-steps 8 "
    "--n-latent 3 --n-hidden 6 --batch-size 40 --mask-prob 0.1 --no-progress --jobs 1"
)


QUICK: dict[str, Any] = {
    "n_particles": 5,
    "effect_particles": 40,
    "n_draws": 10,
    "n_halvings": 3,
    "n_cells": 20,
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    adata = make_adata(n_cells=400)
    alone = adata.obs["perturbation"] == "B+A"
    adata.obs.loc[alone, "split"] = "test"  # a combination never seen in training
    adata.write_h5ad(folder / "screen.h5ad")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score with few draws: the scores themselves are tested elsewhere."""

    def quickly(
        predictors: Any, screen: samsvae.Screen, given: ScoreSettings, **how: Any
    ) -> Evaluation:
        return evaluated(predictors, screen, replace(given, **QUICK), **how)

    monkeypatch.setattr(job, "evaluated", quickly)


@pytest.fixture
def whole(folder: Path, call: Call) -> pd.DataFrame:
    """Return the results of a comparison that nothing interrupted."""
    if not (folder / "whole").exists():
        done = call(f"{LINE} --out whole")
        assert (done.code, done.errors) == (0, [])
    return pd.read_csv(folder / "whole" / "results.csv")


def test_results_hold_every_predictor_seed_split_and_condition(whole: pd.DataFrame) -> None:
    first = ["predictor", "seed", "split", "condition", "metric", "value"]
    assert list(whole.columns[:6]) == first
    assert not whole.duplicated(first[:5]).any()
    simple = [kind.name for kind in BASELINES]
    assert set(whole["predictor"]) == {
        "sams-vae",
        "conditional-vae",
        *simple,
        "technical replicate",
    }
    for predictor, rows in whole.groupby("predictor"):
        seeds = set(rows["seed"].dropna())
        assert seeds == ({0, 1} if predictor in MODELS.split(",") else set())
        assert set(rows["split"]) == {"test", "unseen"}
        assert set(rows.loc[rows["split"] == "unseen", "condition"]) == {"A+B", "(all)"}
    iwelbo = whole[whole["metric"] == "iwelbo"]
    assert set(iwelbo["predictor"]) == {"sams-vae", "conditional-vae"}


def test_scores_are_those_of_evaluate(folder: Path, whole: pd.DataFrame) -> None:
    screen = samsvae.read_h5ad(folder / "screen.h5ad", split_key="split")
    model = samsvae.load(folder / "whole" / "runs" / "sams-vae-seed1")
    assert model.hyperparameters["mask_prob"] == 0.1
    expected = samsvae.evaluate(model, screen, scale="log", progress=False, **QUICK)
    expected = expected[expected["predictor"] == "sams-vae"]
    ours = whole[(whole["predictor"] == "sams-vae") & (whole["seed"] == 1)]
    np.testing.assert_allclose(ours["value"], expected["value"], rtol=1e-6)


def test_the_table_is_the_mean_and_sd_over_seeds(folder: Path, whole: pd.DataFrame) -> None:
    table = table_of(whole).set_index(["split", "predictor", "metric"])
    rows = whole[(whole["condition"] == "(all)") & (whole["split"] == "test")]
    values = rows[(rows["predictor"] == "sams-vae") & (rows["metric"] == "rmse")]["value"]
    mine = table.loc[("test", "sams-vae", "rmse")]
    assert mine["mean"] == pytest.approx(values.mean())
    assert mine["sd"] == pytest.approx(values.std())
    assert mine["n_seeds"] == 2
    assert np.isnan(table.loc[("test", "additive", "rmse"), "sd"])
    written = pd.read_csv(folder / "whole" / "table.csv")
    np.testing.assert_allclose(written["mean"], table["mean"])


def test_the_table_is_printed(whole: pd.DataFrame, call: Call) -> None:
    done = call(f"{LINE} --out whole --resume")
    assert (done.code, done.errors) == (0, [])
    names = (
        "sams-vae",
        "condition-mean",
        "technical replicate",
        "ate pearson",
        "test cells",
        "unseen",
    )
    for name in names:
        assert name in done.out
    assert "seed 0" not in done.out  # nothing was trained anew


class CrashError(Exception):
    """Stands for a machine that fails."""


@pytest.mark.slow
@pytest.mark.parametrize("fails_at", [2, 4])
def test_a_comparison_that_fails_resumes_where_it_was(
    folder: Path,
    whole: pd.DataFrame,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
) -> None:
    steps: list[PlainStep] = []
    taken, evaluate = PlainStep.__call__, job.evaluated

    def counted(step: PlainStep, *args: Any) -> Any:
        steps.append(step)
        return taken(step, *args)

    scored: list[str] = []

    def crashing(predictors: Any, *args: Any, **settings: Any) -> Evaluation:
        if len(scored) == fails_at:
            raise CrashError("power cut")
        scored.append(str(predictors))
        return evaluate(predictors, *args, **settings)

    monkeypatch.setattr(PlainStep, "__call__", counted)
    out = f"crash{fails_at}"
    with monkeypatch.context() as patched:
        patched.setattr(job, "evaluated", crashing)
        done = call(f"{LINE} --out {out}")
    assert done.code == 1
    assert "jobs failed" in done.errors[0]
    assert "CrashError: power cut" in done.errors[0]
    # What was scored before is told; the rest is written down.
    there = pd.read_csv(folder / out / "results.csv")
    seeds = {0} if fails_at == 2 else {0, 1}
    assert set(zip(there["predictor"], there["seed"], strict=True)) == {
        (model, seed) for model in MODELS.split(",") for seed in seeds
    }
    assert "power cut" in (folder / out / "failures" / "baselines-seed0.txt").read_text()
    done = call(f"{LINE} --out {out} --resume")
    assert (done.code, done.errors) == (0, [])
    assert not list((folder / out).glob("failures/*"))
    assert len(steps) == 2 * 2 * 8  # every model was trained once, in both runs together
    again = pd.read_csv(folder / out / "results.csv")
    pd.testing.assert_frame_equal(again, whole)


def test_a_directory_is_replaced_only_if_asked(whole: pd.DataFrame, call: Call) -> None:
    done = call(f"{LINE} --out whole")
    assert done.code == 2
    assert "--overwrite" in done.errors[0]
    fewer = LINE.replace("--seeds 2", "--seeds 1")
    for line in (fewer, f"{LINE} --scale normalized", f"{LINE} --baselines additive"):
        done = call(f"{line} --out whole --resume")
        assert done.code == 2, line
        assert "started with other settings" in done.errors[0]
    done = call(LINE.replace("--n-hidden 6", "--n-hidden 7") + " --out whole --resume")
    assert done.code == 2
    assert "n_hidden = 6, not 7" in done.errors[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--models sams-vea", "no model 'sams-vea'"),
        ("--models sams-vae,sams-vae", "names 'sams-vae' twice"),
        ("--models ,", "--models ',': expected names"),
        ("--baselines additiv", "no baseline 'additiv'"),
        ("--seeds 0", "seeds"),
        ("--models cpa-vae --mask-prob 0.1", "none of the models compared has.*'mask_prob'"),
        ("--max-steps 0", "max_steps"),
        ("--set nonsense=1", "nonsense"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    folder: Path, call: Call, line: str, said: str
) -> None:
    done = call(f"compare screen.h5ad --split-key split --out fresh {line}")
    assert done.code == 2
    assert len(done.errors) == 1
    assert pd.Series(done.errors).str.contains(said).all(), done.errors
    assert not (folder / "fresh").exists()


def test_settings_go_to_the_models_that_have_them(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("n_latent = 7\n[svae-plus]\nbeta_b = 3.0\n")
    plan = comparison(
        models=",".join(kind.name for kind in ESTIMATORS),
        baselines="none",
        seeds=3,
        scale="log",
        scoring=ScoreSettings(),
        options={"mask_prob": 0.2, "seed": 5},
        assignments=["n_hidden=9"],
        config=config,
    )
    assert plan.seeds == 3
    assert {variant.settings["seed"] for variant in plan.variants} == {5}
    assert plan.baselines == ()
    for settings in (variant.settings for variant in plan.variants):
        name = settings["model"]
        assert (settings["n_latent"], settings["n_hidden"]) == (7, 9)
        assert settings.get("mask_prob") == (0.2 if name == "sams-vae" else None)
        assert settings.get("beta_b") == {"sams-vae": 2.0, "svae-plus": 3.0}.get(name)


def test_the_technical_replicate_is_scored_without_baselines(call: Call, folder: Path) -> None:
    done = call(
        "compare screen.h5ad --split-key split --models cpa-vae --baselines none --seeds 1 "
        "--max-steps 3 --n-latent 2 --n-hidden 4 --no-progress --jobs 1 --out bare"
    )
    assert (done.code, done.errors) == (0, [])
    assert set(pd.read_csv(folder / "bare" / "results.csv")["predictor"]) == {
        "cpa-vae",
        "technical replicate",
    }
