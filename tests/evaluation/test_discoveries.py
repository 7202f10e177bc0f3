"""The table of discoveries, and the predictor behind it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError

QUICK = {"n_particles": 50, "progress": False}
TRAINING = {"max_steps": 60, "batch_size": 64, "learning_rate": 0.01, "progress": False}


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    return read(make_adata(n_cells=600))


@pytest.fixture(scope="module")
def model(screen: samsvae.Screen) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(alignment="none", **TRAINING)


@pytest.fixture(scope="module")
def table(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> pd.DataFrame:
    return samsvae.discoveries(model, screen, **QUICK)


def test_one_row_per_condition_and_gene(table: pd.DataFrame, screen: samsvae.Screen) -> None:
    assert list(table.columns) == [
        *("condition", "gene", "estimate", "sd", "lower", "upper", "lfsr", "q_value"),
        *("model", "observed", "n_cells"),
    ]
    assert len(table) == 4 * len(screen.genes)
    assert table["lfsr"].between(0, 1).all()
    assert (table["lower"] <= table["estimate"] + 1e-9).all()
    assert (table["estimate"] <= table["upper"] + 1e-9).all()
    n_cells = table.groupby("condition", observed=True)["n_cells"].first()
    assert {name: len(screen.of(name)) for name in n_cells.index} == n_cells.to_dict()


def test_observed_is_the_differential_expression(
    table: pd.DataFrame, screen: samsvae.Screen
) -> None:
    own = table.pivot(index="condition", columns="gene", values="observed")
    expected = samsvae.differential_expression(screen, list(own.index))
    np.testing.assert_allclose(own[list(screen.genes)], expected, atol=1e-12)


def test_the_q_value_is_the_mean_lfsr_of_all_that_are_as_sure(table: pd.DataFrame) -> None:
    ordered = table.sort_values("lfsr", kind="stable")
    expected = ordered["lfsr"].expanding().mean()
    np.testing.assert_allclose(ordered["q_value"], expected, atol=1e-12)


def test_an_unseen_combination_is_answered_by_the_model(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    table = samsvae.discoveries(model, screen, ["A+C", "A"], **QUICK)
    unseen = table[table["condition"] == "A+C"]
    assert unseen["observed"].isna().all()
    assert (unseen["n_cells"] == 0).all()
    slope = np.polyfit(unseen["model"], unseen["estimate"], 1)[0]
    assert slope >= 0
    np.testing.assert_allclose(unseen["estimate"], slope * unseen["model"], atol=1e-9)


def test_silent_genes_change_nothing() -> None:
    adata = make_adata(n_cells=600)
    adata.X[:, 3] = 0
    screen = read(adata)
    with pytest.warns(match="1 of 12 genes are zero"):
        model = samsvae.SAMSVAE(screen, **SMALL).train(alignment="none", **TRAINING)
    table = samsvae.discoveries(model, screen, **QUICK)
    silent = table[table["gene"] == screen.genes[3]]
    assert (silent["estimate"] == 0).all()
    assert (silent["lfsr"] == 1).all()
    assert silent["sd"].isna().all()


def test_it_stands_in_the_table_of_evaluation(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    posterior = samsvae.EffectPosterior(model, screen)
    given = {"effect_particles": 50, "n_halvings": 2, "n_particles": 2, "progress": False}
    rows = samsvae.evaluate([model, posterior], screen, scale="log", **given)
    pooled = rows[rows["condition"] == "(all)"].set_index(["predictor", "metric"])["value"]
    for metric in ("ate_pearson", "rmse", "coverage_90", "coverage_50"):
        assert np.isfinite(pooled["sams-vae, with data", metric]), metric
    assert "iwelbo" not in pooled["sams-vae, with data"].dropna()
    held = screen.cells[screen.split == "test"]
    assert not posterior.remembered.isin(held).any()


def test_test_cells_do_not_enter_the_predictor(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    spoilt = read(make_adata(n_cells=600))
    rows = np.flatnonzero(spoilt.split == "test")
    counts = spoilt.counts.tolil()
    counts[rows[:20]] = 50
    spoilt = samsvae.Screen(**{**vars(spoilt), "counts": counts.tocsr()})
    first, second = (
        samsvae.EffectPosterior(model, one).effects(**QUICK).X for one in (screen, spoilt)
    )
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_what_is_needed(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    with pytest.raises(InputError, match="not trained"):
        samsvae.discoveries(samsvae.SAMSVAE(screen, **SMALL), screen)
    no_valid = screen.with_split(np.where(screen.split == "valid", "train", screen.split))
    with pytest.raises(InputError, match="no validation cells, of control and of perturbations"):
        samsvae.discoveries(model, no_valid)
    posterior = samsvae.EffectPosterior(model, screen)
    with pytest.raises(InputError, match="has no likelihood"):
        posterior.iwelbo(screen, n_particles=1, seed=0, progress=False)


@pytest.mark.parametrize("scale", ["normalized"])
def test_other_scales(model: samsvae.SAMSVAE, screen: samsvae.Screen, scale: str) -> None:
    table = samsvae.discoveries(model, screen, scale=scale, **QUICK)
    expected = samsvae.differential_expression(screen, scale=scale)
    own = table.pivot(index="condition", columns="gene", values="observed")
    np.testing.assert_allclose(own.loc[expected.index, expected.columns], expected, atol=1e-9)
    assert table["estimate"].corr(table["observed"]) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["programs", "mixed"])
def test_calls_on_a_simulated_screen(decoder: str) -> None:
    """Of the calls at a false sign rate of 5 % so many have the right sign."""
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=16, n_combinations=0, n_genes=120, n_control=600, decoder=decoder, seed=1
    )
    model = samsvae.SAMSVAE(screen, n_latent=15, n_hidden=32)
    model.train(max_steps=600, learning_rate=0.006, progress=False)
    table = samsvae.discoveries(model, screen, n_particles=500, progress=False)
    truth = screen.truth.effects(list(model.facts.conditions[1:])).stack()
    own = table.set_index(["condition", "gene"])
    own.index = own.index.set_levels([level.astype(str) for level in own.index.levels])
    sign = np.sign(truth.reindex(own.index).to_numpy())
    call = (own["q_value"] < 0.05).to_numpy()
    assert call.sum() > 100
    assert (np.sign(own["estimate"].to_numpy()) != sign)[call].mean() < 0.1
