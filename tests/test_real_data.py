"""The main job on real screens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import samsvae
from helpers.real_data import real_data
from samsvae.estimators import estimator
from samsvae.estimators.base import Estimator
from samsvae.settings.experiment import gathered
from samsvae.settings.fields import settings_of
from samsvae.settings.train import TrainPlan

CONFIG = Path(__file__).parents[1] / "configs" / "papalexi.toml"
SAMSVAE = Path(sys.executable).with_name("samsvae")


pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def papalexi() -> Estimator:
    """Return a model of the shipped setting, trained faster and not to the end."""
    screen = samsvae.read_h5ad(real_data("papalexi2021.h5ad"), split_key="split")
    faster = {"max_steps": 1500, "learning_rate": 3e-3, "n_particles": 2, "progress": False}
    settings = gathered(faster, config=CONFIG)
    kind = estimator(settings["model"])
    model = kind(screen, **settings_of(kind, settings))
    return model.train(**settings_of(TrainPlan, settings))


def test_interferon_knock_outs_lower_their_targets(papalexi: Estimator) -> None:
    effects = papalexi.effects(
        ["STAT1", "JAK2", "IFNGR1", "IFNGR2", "IRF1"], n_particles=1000, progress=False
    )
    upper = effects.to_df("upper")
    for name in ("STAT1", "JAK2", "IFNGR1", "IFNGR2"):
        assert (upper.loc[name, ["STAT1", "UBE2L6"]] < 0).all(), name
    # The weakest of these effects: 1,500 steps do not settle its sign.
    assert effects.to_df().loc["IRF1", "JAK2"] < 0


def test_effects_agree_with_held_out_cells(papalexi: Estimator) -> None:
    screen = samsvae.read_h5ad(real_data("papalexi2021.h5ad"), split_key="split")
    effects = papalexi.effects(n_particles=1000, n_draws=0, progress=False).to_df()
    assert samsvae.ate_pearson(effects, screen).pooled > 0.5
    iwelbo = papalexi.iwelbo(screen.test, n_particles=20, progress=False)
    assert iwelbo["iwelbo"].mean() > -190


def test_norman_from_the_command_line(tmp_path: Path) -> None:
    data, run = str(real_data("norman2019.h5ad")), str(tmp_path / "n")

    def samsvae_(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        done = subprocess.run(
            [SAMSVAE, *arguments], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done

    size = ["--n-latent", "20", "--n-hidden", "32", "--max-steps", "60", "--no-progress"]
    trained = samsvae_("train", data, "--split-key", "split", "--out", run, *size)
    assert "267 of 500 genes are zero in all training cells" in trained.stderr
    few = ["--effect-particles", "50", "--n-halvings", "2"]
    samsvae_("evaluate", run, data, "--n-particles", "5", "--n-cells", "50", *few)
    metrics = json.loads((tmp_path / "n" / "metrics.json").read_text())["test"]
    assert metrics["scale"] == "lfc"
    assert np.isfinite([metrics[name] for name in ("iwelbo", "ate_pearson", "rmse")]).all()
    answered = samsvae_("effects", run, "KLF1+MAP2K6", "--n-particles", "50")
    assert "KLF1+MAP2K6" in answered.stdout
    assert "90 % interval" in answered.stdout
    unseen = samsvae_("effects", run, "KLF1+SGK1", "--n-particles", "50")
    assert "never seen in training" in unseen.stdout
