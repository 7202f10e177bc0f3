"""Baselines of perturbations without cells: against their formulas, and in `evaluate`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from samsvae import InputError, baselines, features

NAMES = ["P0", "P1", "P2", "P3", "P4", "P5"]


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    rng = np.random.default_rng(0)
    labels = ["control"] * 60 + [name for name in NAMES for _ in range(20)]
    rate = np.full((len(labels), 10), 10.0)
    rate[[label in NAMES[:4] for label in labels], 0] *= 4  # P0 to P3, of which P3 is held out
    rate[[label in NAMES[4:] for label in labels], 1] *= 4
    split = np.where(rng.random(len(labels)) < 0.2, "valid", "train").astype(object)
    split[[label == "P3" for label in labels]] = "test"
    split[:10] = "test"
    obs = pd.DataFrame(
        {"perturbation": labels, "split": split}, index=[f"c{i}" for i in range(len(labels))]
    )
    adata = AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=obs)
    return samsvae.Screen.from_anndata(adata, split_key="split")


def known() -> features.Features:
    return features.read({"first": NAMES[:4], "second": NAMES[4:]})


def test_neighbours_are_the_mean_of_those_in_the_same_set(screen: samsvae.Screen) -> None:
    predictor = baselines.FeatureNeighbours(screen, known())
    found = predictor.effects(["P3", "P0"]).to_df()
    own = baselines.Additive(screen).effects(["P0", "P1", "P2", "P4"]).to_df()
    np.testing.assert_allclose(found.loc["P3"], own.loc[["P0", "P1", "P2"]].mean())
    np.testing.assert_allclose(found.loc["P0"], own.loc["P0"])


def test_ridge_is_the_formula(screen: samsvae.Screen) -> None:
    found = baselines.FeatureRidge(screen, known()).effects(["P3"]).to_df().loc["P3"]
    measured = [name for name in NAMES if name != "P3"]
    effects = baselines.Additive(screen).effects(measured).to_df().to_numpy()
    (factor,) = known().factors([*measured, "P3"], [])
    kernel = factor @ factor.T
    weight = kernel[-1, :-1] @ np.linalg.inv(kernel[:-1, :-1] + 0.3 * np.eye(5))
    mean = effects.mean(0)
    np.testing.assert_allclose(found, mean + weight @ (effects - mean), rtol=1e-6)
    assert found["0"] > found.drop("0").max()


def test_evaluate_scores_them_beside_others(screen: samsvae.Screen) -> None:
    predictors = [
        baselines.FeatureRidge(screen, known()),
        baselines.FeatureNeighbours(screen, known()),
        baselines.PerturbationMean(screen),
    ]
    scores = samsvae.evaluate(predictors, screen, progress=False)
    errors = scores[scores["metric"] == "rmse"].groupby("predictor")["value"].mean()
    assert errors["feature-ridge"] < errors["perturbation-mean"]


def test_features_are_needed(screen: samsvae.Screen) -> None:
    with pytest.raises(InputError, match="features is"):
        baselines.FeatureRidge(screen, "sets.gmt")  # type: ignore[arg-type]
