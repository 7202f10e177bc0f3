"""What cannot be known is marked: effects that go with their batches, genes without a count."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import samsvae
from helpers.screens import SMALL
from samsvae import Screen

BASE, OTHER = np.random.default_rng(0).dirichlet(np.full(20, 4.0), 2)
ASKED: dict[str, Any] = {"n_particles": 40, "n_draws": 5, "progress": False}


def screen_of(*groups: tuple[str, str, int], unexpressed: int = 0) -> Screen:
    """Return cells of conditions in batches: condition, batch, number."""
    rng, counts, labels, batches = np.random.default_rng(0), [], [], []
    for name, batch, n in groups:
        counts.append(rng.poisson(400 * (BASE if batch == "b1" else OTHER), (n, 20)))
        labels += [name] * n
        batches += [batch] * n
    values = np.vstack(counts)
    values[:, 20 - unexpressed :] = 0
    split = np.where(np.arange(len(labels)) % 3 == 0, "test", "train")
    obs = pd.DataFrame({"perturbation": labels, "batch": batches, "split": split})
    obs.index = [f"c{i}" for i in range(len(obs))]
    return Screen.from_anndata(AnnData(values, obs=obs), batch_key="batch", split_key="split")


def fitted(screen: Screen) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(max_steps=5, progress=False)


@pytest.fixture(scope="module")
def confounded() -> Screen:
    return screen_of(("control", "b1", 60), ("A", "b2", 60), ("B", "b1", 60), ("A+B", "b2", 30))


def test_a_perturbation_that_goes_with_its_batch_is_named(confounded: Screen) -> None:
    with pytest.warns(UserWarning, match="the effects of 'A' are confounded with those of"):
        samsvae.SAMSVAE(screen_of(("control", "b1", 60), ("A", "b2", 60), ("B", "b1", 60)), **SMALL)


def test_a_batch_is_linked_through_conditions_that_are_in_several() -> None:
    linked = screen_of(("control", "b1", 60), ("B", "b1", 30), ("B", "b2", 30), ("A", "b2", 60))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = samsvae.SAMSVAE(linked, **SMALL)
    assert model.metadata.estimable == {"A", "B"}


@pytest.mark.filterwarnings("ignore:the effects of")
def test_effects_that_are_not_identified_have_no_interval(tmp_path: Path) -> None:
    screen = screen_of(("control", "b1", 60), ("A", "b2", 60), ("B", "b1", 60))
    model = fitted(screen)
    for one in (model, (model.save(tmp_path), samsvae.load(tmp_path))[1]):
        effects = one.effects(["A", "B", "A+B", "control"], **ASKED)
        assert effects.obs["estimable"].tolist() == [False, True, False, True]
        for name in ("lower", "upper", "lower_50", "upper_50"):
            assert np.isnan(effects.layers[name]).all(1).tolist() == [True, False, True, False]


@pytest.mark.filterwarnings("ignore:the effects of")
def test_what_is_not_identified_is_left_out_and_counted() -> None:
    screen = screen_of(("control", "b1", 90), ("A", "b2", 90), ("B", "b1", 90), ("C", "b1", 90))
    settings: dict[str, Any] = {"scale": "log", "n_halvings": 0, "n_cells": 0, "progress": False}
    predictors = [fitted(screen), samsvae.baselines.ConditionMean(screen)]
    with pytest.warns(UserWarning, match="1 conditions share no batch with control.*'A'"):
        table = samsvae.evaluate(predictors, screen, effect_particles=20, **settings)
    assert table.attrs["n_not_estimable"] == 1
    scores = table[table["metric"] == "mae"].set_index(["predictor", "condition"])["value"]
    for name in ("sams-vae", "condition-mean"):
        assert np.isnan(scores[name, "A"])
        assert scores[name, "(all)"] == pytest.approx((scores[name, "B"] + scores[name, "C"]) / 2)
    assert np.isfinite(table.loc[table["metric"] == "iwelbo", "value"]).all()


@pytest.mark.filterwarnings("ignore:5 of 20 genes are zero")
def test_genes_without_a_count_have_no_effect_and_no_interval() -> None:
    screen = screen_of(("control", "b1", 60), ("A", "b1", 60), unexpressed=5)
    effects = fitted(screen).effects(["A"], **ASKED)
    assert effects.var["unexpressed"].tolist() == [False] * 15 + [True] * 5
    assert (effects.X[:, 15:] == 0).all()
    assert np.isnan(effects.layers["lower"][:, 15:]).all()
    assert np.isfinite(effects.layers["lower"][:, :15]).all()
    assert samsvae.baselines.Additive(screen).effects(["A"]).var["unexpressed"].sum() == 5


# Batches.


def test_observed_batches_are_those_of_the_condition() -> None:
    screen = screen_of(
        ("control", "b1", 60), ("control", "b2", 90), ("A", "b1", 60), ("B", "b2", 60)
    )
    model = fitted(screen)
    ours = model.effects(["A", "B", "A+B"], batch="observed", **ASKED)
    for i, batch in enumerate(("b1", "b2")):
        name = ours.obs_names[i]
        alone = model.effects([name], batch=batch, **ASKED)
        np.testing.assert_allclose(ours.X[i], alone.X[0], rtol=1e-5, atol=1e-5)
    unseen = model.effects(["A+B"], **ASKED)
    np.testing.assert_allclose(ours.X[2], unseen.X[0], rtol=1e-5, atol=1e-5)
    in_control = model.effects(["A"], batch="observed", basal="control", **ASKED)
    assert np.isfinite(in_control.X).all()


def test_differential_expression_compares_within_batches() -> None:
    screen = screen_of(("control", "b1", 300), ("control", "b2", 900), ("A", "b1", 400))
    table = samsvae.differential_expression(screen)
    alone = samsvae.differential_expression(screen[screen.batch == 0])
    np.testing.assert_allclose(table.loc["A"], alone.loc["A"], atol=1e-6)
    assert np.abs(table.to_numpy()).max() < 0.3  # A does nothing: what differs is the batch
    by_all = screen_of(("control", "b1", 300), ("control", "b2", 900), ("A", "b1", 400))
    object.__setattr__(by_all, "batch", np.zeros(len(by_all), np.int32))
    assert np.abs(samsvae.differential_expression(by_all).to_numpy()).max() > 0.5


def test_a_baseline_comes_near_the_replicate_where_batches_differ() -> None:
    screen = screen_of(
        ("control", "b1", 1800), ("control", "b2", 5400), ("A", "b1", 2400), ("B", "b2", 2400)
    )
    kinds = (samsvae.baselines.NoChange, samsvae.baselines.ConditionMean)
    predictors = [kind(screen) for kind in kinds]
    table = samsvae.evaluate(predictors, screen, scale="log", n_cells=0, progress=False)
    pooled = table[(table["metric"] == "rmse") & (table["condition"] == "(all)")]
    rmse = pooled.set_index("predictor")["value"]
    assert rmse["condition-mean"] < rmse["technical replicate"]  # which has half of the cells
    assert rmse["technical replicate"] < 0.2  # as comparing across batches never is
