"""Panels of a larger library: where training starts, what the encoder sees, what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae.data.loader import Loader
from samsvae.estimators.models import ESTIMATORS
from samsvae.estimators.starting import library_shares
from samsvae.model.likelihood import NegativeBinomialLikelihood

QUICK: dict[str, Any] = {
    "max_steps": 1,
    "batch_size": 64,
    "n_particles": 2,
    "learning_rate": 1e-6,
    "progress": False,
}


def panel(adata: AnnData) -> AnnData:
    """Return the first half of the genes, with a library of which they are 1 %."""
    half = adata[:, : adata.n_vars // 2].copy()
    half.X[:, -1] += 1  # no cell is empty
    half.obs["total"] = 100 * np.asarray(half.X.sum(1)).ravel() + np.arange(len(half))
    return half


def start(model: samsvae.SAMSVAE) -> Tensor:
    """Return the shares of the genes of a panel where the decoder says nothing."""
    likelihood = model.module.likelihood
    assert isinstance(likelihood, NegativeBinomialLikelihood)
    nothing = torch.zeros(likelihood.linear.in_features)
    return likelihood.proportions(nothing, panel=False).detach()


def test_the_categories_start_at_their_shares_in_the_training_cells() -> None:
    adata = panel(make_adata())
    screen = read(adata, library_size_key="total")
    train = adata[(adata.obs["split"] == "train").to_numpy()]
    counted = train.X.sum(0) + 1
    expected = torch.from_numpy(counted / (train.obs["total"].sum() + adata.n_vars + 1)).float()
    model = samsvae.SAMSVAE(screen, **SMALL)
    torch.testing.assert_close(start(model), expected, rtol=1e-5, atol=0)
    assert library_shares(screen.train)[-1] == pytest.approx(0.99, abs=1e-3)
    for seed in (0, 1):  # and whenever training starts anew
        model.train(**QUICK, seed=seed)
        torch.testing.assert_close(start(model), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_first_prediction_of_a_panels_counts_is_about_right(
    kind: type[samsvae.SAMSVAE],
) -> None:
    screen = read(panel(make_adata()), library_size_key="total")
    model = kind(screen, n_latent=4, n_hidden=8).train(**QUICK)
    drawn = model.simulate(["control"], n_cells=500)
    counted = screen.of("control").counts.sum() / len(screen.of("control"))
    assert drawn.X.sum() / 500 == pytest.approx(counted, rel=0.5)


def test_a_gene_without_counts_starts_at_a_finite_share() -> None:
    adata = panel(make_adata())
    adata.X[:, 0] = 0
    with pytest.warns(UserWarning, match="1 of 6 genes are zero"):
        model = samsvae.SAMSVAE(read(adata, library_size_key="total"), **SMALL)
    first, *others = start(model).tolist()
    assert 0 < first < min(others)


def test_whole_libraries_start_as_torch_draws_them(screen: samsvae.Screen) -> None:
    likelihood = samsvae.SAMSVAE(screen, **SMALL).module.likelihood
    assert isinstance(likelihood, NegativeBinomialLikelihood)
    assert likelihood.linear.bias.abs().max() <= SMALL["n_hidden"] ** -0.5
    told = read(panel(make_adata()), library_size_key="total")
    samsvae.SAMSVAE(told, **SMALL, likelihood="poisson")  # has no use for library sizes


def test_a_model_of_a_panel_is_saved_and_resumed(tmp_path: Path) -> None:
    screen = read(panel(make_adata()), library_size_key="total")
    settings: dict[str, Any] = {
        "alignment": "none",
        "max_steps": 8,
        "batch_size": 64,
        "validate_every": 2,
        "progress": False,
    }
    whole = samsvae.SAMSVAE(screen, **SMALL).train(**settings)
    shorter = {"checkpoint": tmp_path / "checkpoint", "checkpoint_every": 4}
    samsvae.SAMSVAE(screen, **SMALL).train(**settings | {"max_steps": 4}, **shorter)
    resumed = samsvae.SAMSVAE(screen, **SMALL).train(**settings, **shorter, resume=True)
    whole.save(tmp_path / "saved")
    loaded = samsvae.load(tmp_path / "saved")
    wanted, *found = (
        model.iwelbo(screen.test, n_particles=5, progress=False)
        for model in (whole, resumed, loaded)
    )
    for one in found:
        pd.testing.assert_frame_equal(one, wanted, check_exact=True)


def test_the_encoder_sees_the_rest_of_the_library() -> None:
    adata = panel(make_adata())
    screen = read(adata, library_size_key="total")
    encoder = samsvae.SAMSVAE(screen, **SMALL).train(**QUICK).module.encoder
    train = adata[(adata.obs["split"] == "train").to_numpy()]
    rest = np.log1p(train.obs["total"].to_numpy() - train.X.sum(1))
    statistics = encoder.center[-1].item(), encoder.scale[-1].item()
    assert statistics == pytest.approx((rest.mean(), rest.std(ddof=1)), rel=1e-5)
    batch = Loader(screen).batch(slice(0, 5))
    nothing = torch.zeros(1, 5, encoder.n_latent)
    once, twice = (
        encoder.posterior(batch._replace(library_size=n * batch.library_size), nothing).loc
        for n in (1, 2)
    )
    assert not torch.allclose(once, twice)


@pytest.mark.slow
def test_library_sizes_that_are_told_cost_little() -> None:
    whole = samsvae.datasets.simulated_screen(
        n_perturbations=6,
        n_combinations=0,
        n_genes=400,
        cells_per_condition=100,
        n_control=400,
        library_size=4000,
    ).to_anndata()
    whole.obs["total"] = np.asarray(whole.X.sum(1)).ravel()
    means = np.asarray(whole.X.mean(0)).ravel()
    adata = whole[:, np.sort(np.argsort(means)[-200:-150])].copy()  # 3 % of the counts
    scores = {}
    for key in ("total", None):
        screen = read(adata, library_size_key=key)
        model = samsvae.SAMSVAE(screen, n_latent=10, n_hidden=32, n_hidden_embedding=16)
        model.train(
            max_steps=600, batch_size=256, n_particles=2, learning_rate=3e-3, progress=False
        )
        settings = {"n_particles": 50, "effect_particles": 300, "n_draws": 0, "n_cells": 0}
        table = samsvae.evaluate(
            model, screen, scale="log", n_halvings=0, progress=False, **settings
        )
        pooled = table[table["condition"] == "(all)"]
        scores[key] = pooled.set_index("metric")["value"]
    told, untold = scores["total"], scores[None]
    # A panel's own total, which is given where no library size is told, is left to be predicted.
    assert told["iwelbo"] > untold["iwelbo"] - 1.5
    for metric in ("ate_pearson", "ate_r2"):
        assert told[metric] > untold[metric] - 0.1, metric
