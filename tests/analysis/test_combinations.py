"""Combinations and the sum of their parts: tables one by one, the data's, and its error rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import samsvae
from helpers.models import shaken
from helpers.screens import make_adata, read
from samsvae import CPAVAE, InputError, Screen
from samsvae.analysis import combinations as module
from samsvae.analysis.mixture import ObservedEffects
from samsvae.analysis.shrinkage import zero_centred
from samsvae.estimators.base import Estimator
from samsvae.settings.questions import CombinationSettings
from samsvae.types import Scale

GIVEN: dict[str, Any] = {"n_particles": 40, "progress": False}


@pytest.fixture(scope="module")
def screen() -> Screen:
    return read(make_adata(n_cells=600))


@pytest.fixture(scope="module")
def model(screen: Screen) -> Estimator:
    return shaken(CPAVAE, screen)


def test_all_pairs_and_their_deviation(model: Estimator) -> None:
    table = pd.concat(samsvae.combinations(model, **GIVEN))
    assert list(table["condition"].unique()) == ["A+B", "A+C", "B+C"]
    assert len(table) == 3 * 12
    ate = model.effects(["A", "B", "A+B"], n_draws=0, library_size=1e4, **GIVEN).to_df()
    own = table[table["condition"] == "A+B"].set_index("gene")
    np.testing.assert_allclose(own["predicted"], ate.loc["A+B"], atol=1e-6)
    np.testing.assert_allclose(own["additive"], ate.loc["A"] + ate.loc["B"], atol=1e-6)
    np.testing.assert_allclose(own["deviation"], own["predicted"] - own["additive"], atol=1e-9)
    assert own["deviation"].abs().max() > 0.01  # the decoder is not linear


def test_tables_come_one_by_one(model: Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pd.concat(samsvae.combinations(model, **GIVEN), ignore_index=True)
    monkeypatch.setattr(module, "_MAX_ROWS", 12)
    asked: list[int] = []
    effects = model.effects

    def counted(names: list[str], **settings: Any) -> Any:
        asked.append(len(names))
        return effects(names, **settings)

    monkeypatch.setattr(model, "effects", counted)
    tables = samsvae.combinations(model, **GIVEN)
    first = next(tables)
    assert len(first) == 12
    assert asked == [2, 1]  # two singles, one pair: nothing else yet
    rest = [first, *tables]
    assert sum(asked) == 3 + 3  # each single once
    parts = pd.concat(rest, ignore_index=True)
    assert list(parts["condition"]) == list(whole["condition"])
    columns = ["predicted", "additive", "deviation"]
    np.testing.assert_allclose(parts[columns], whole[columns], atol=1e-6)


def test_what_the_cells_show(model: Estimator, screen: Screen) -> None:
    table = next(samsvae.combinations(model, screen, ["B+A", "A+C"], **GIVEN))
    assert list(table["condition"].unique()) == ["B+A", "A+C"]  # as they were asked for
    own = table[table["condition"] == "B+A"].set_index("gene")
    change = samsvae.differential_expression(screen, scale="lfc")
    np.testing.assert_allclose(own["observed"], change.loc["A+B"], atol=1e-9)
    expected = change.loc["A+B"] - change.loc["A"] - change.loc["B"]
    np.testing.assert_allclose(own["observed_deviation"], expected, atol=1e-9)
    assert (own["n_cells"] == len(screen.of("A+B"))).all()
    assert own["lfsr"].between(0, 1).all()
    unseen = table[table["condition"] == "A+C"]
    assert (unseen["n_cells"] == 0).all()
    assert unseen[["observed", "interaction", "lfsr"]].isna().all(axis=None)


def test_batches_are_taken_into_account(model: Estimator) -> None:
    adata = make_adata(n_cells=600)
    screen = read(adata, batch_key="batch")
    with_batches = shaken(CPAVAE, screen)
    table = next(samsvae.combinations(with_batches, screen, ["A+B"], **GIVEN)).set_index("gene")
    change = samsvae.differential_expression(screen, scale="lfc")
    expected = change.loc["A+B"] - change.loc["A"] - change.loc["B"]
    np.testing.assert_allclose(table["observed_deviation"], expected, atol=1e-9)


@pytest.mark.parametrize("scale", ["log", "lfc"])
def test_the_standard_error_is_that_of_repeated_screens(scale: Scale) -> None:
    """Over 60 screens: their spread within a factor that chance leaves (median over genes)."""
    model = None
    found, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        adata = make_adata(n_cells=200)
        adata.X = rng.poisson(np.linspace(3, 30, 12), adata.shape).astype(np.float32)
        screen = read(adata)
        model = model or shaken(CPAVAE, screen)
        _, _, deviation = module._observed(model, screen, ["A+B"], CombinationSettings(), scale)
        found.append(deviation.difference[0])
        errors.append(np.sqrt(deviation.variance[0]))
    ratio = np.mean(errors, 0) / np.std(found, 0)
    assert np.median(ratio) == pytest.approx(1, abs=0.15)


def test_an_interaction_is_found_where_there_is_one(model: Estimator) -> None:
    adata = make_adata(n_cells=1500)
    pair = (adata.obs["perturbation"] == "B+A").to_numpy()
    rng = np.random.default_rng(0)
    adata.X[pair, 4] += rng.poisson(30, pair.sum())
    # As counts: shares of a library would all change with one of them.
    settings = CombinationSettings(scale="mean")
    found = zero_centred(module._observed(model, read(adata), ["A+B"], settings, "mean")[2])
    assert found.lfsr[0, 4] < 1e-3
    assert found.mean[0, 4] == pytest.approx(30, rel=0.2)
    assert (np.delete(found.lfsr[0], 4) > 0.01).all()


def test_zero_centred_is_the_posterior_of_its_mixture() -> None:
    """Half of the effects are 0, half N(0, 4), the error is 1: EM finds that mixture."""
    rng = np.random.default_rng(0)
    effect = np.where(rng.random((40, 250)) < 0.5, 0, rng.normal(0, 2, (40, 250)))
    seen = effect + rng.normal(0, 1, effect.shape)
    found = zero_centred(
        ObservedEffects(
            seen, np.ones_like(seen), np.full(40, 50), np.zeros(40), np.full(40, np.nan)
        )
    )
    density = 0.5 * norm.pdf(seen, 0, np.sqrt(5))
    about = density / (density + 0.5 * norm.pdf(seen, 0, 1))
    away = np.abs(found.mean - about * 0.8 * seen)
    assert away.mean() < 0.1
    assert np.quantile(away, 0.99) < 0.5
    calls = found.lfsr < 0.05
    wrong = (np.sign(effect) != np.sign(found.mean))[calls].mean()
    assert calls.sum() > 500
    assert wrong < 0.05


def test_one_that_acts_among_many_whose_errors_are_taken_to_be_too_large() -> None:
    rng = np.random.default_rng(5)
    effect = np.zeros((60, 200))
    effect[3, :100] = rng.normal(0, 3, 100)
    seen = effect + rng.normal(0, 1, effect.shape)
    found = zero_centred(
        ObservedEffects(
            seen, np.full(seen.shape, 1.2), np.full(60, 50), np.zeros(60), np.full(60, np.nan)
        )
    )
    call = found.lfsr < 0.05
    assert call[3].sum() > 15
    assert not np.delete(call, 3, 0).any()


def test_nothing_is_called_where_nothing_is() -> None:
    seen = np.random.default_rng(1).normal(0, 1, (30, 200))
    found = zero_centred(
        ObservedEffects(
            seen, np.ones_like(seen), np.full(30, 50), np.zeros(30), np.full(30, np.nan)
        )
    )
    assert (found.lfsr < 0.05).mean() < 1e-3


def test_what_it_refuses(model: Estimator, screen: Screen) -> None:
    with pytest.raises(InputError, match=r"'A' is not a combination: .* such as 'A\+B'"):
        samsvae.combinations(model, None, ["A"])
    with pytest.raises(InputError, match="no perturbation 'X'"):
        samsvae.combinations(model, None, ["A+X"])
    with pytest.raises(InputError, match="not trained"):
        samsvae.combinations(CPAVAE(screen, n_latent=3))
    with pytest.raises(InputError, match="no control cells"):
        samsvae.combinations(model, screen[~screen.is_control])


def test_effects_are_those_of_discoveries(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    names, asked = ["A+B", "A+C"], {"n_particles": 40, "progress": False}
    table = next(samsvae.combinations(model, screen, names, **asked)).set_index(
        ["condition", "gene"]
    )
    expected = samsvae.discoveries(model, screen, names, **asked).set_index(["condition", "gene"])
    expected = expected.loc[table.index]
    for name, of_table in {"estimate": "estimate", "lower": "lower", "lfsr": "effect_lfsr"}.items():
        np.testing.assert_allclose(table[of_table], expected[name], atol=1e-3)
