"""Genes and conditions are matched by name, whatever their order and number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import samsvae
from samsvae import InputError, Screen
from samsvae.baselines import Additive, LinearPCA, MatchingMean, PerturbationMean, RidgeRegression
from samsvae.data.alignment import align_genes
from samsvae.datasets import simulated_screen

QUICK: dict[str, Any] = {"scale": "log", "n_halvings": 0, "n_cells": 0, "progress": False}
IGNORED = pytest.mark.filterwarnings("ignore:.* genes of the data are ignored")


@pytest.fixture(scope="module")
def screen() -> Screen:
    return simulated_screen(n_perturbations=4, n_combinations=2, n_genes=20, seed=0)


def with_symbols(screen: Screen) -> Screen:
    """Return the screen with perturbations that are symbols of its last genes."""
    symbols = (*(f"x{i}" for i in range(16)), "G01", "G02", "G03", "G04")
    return replace(screen, registry=replace(screen.registry, symbols=symbols))


def test_ate_pearson_matches_genes_by_name(screen: Screen) -> None:
    effects = samsvae.differential_expression(screen)
    assert samsvae.ate_pearson(effects[effects.columns[::-1]], screen).pooled == pytest.approx(1)


def test_ate_pearson_of_some_genes_scores_these(screen: Screen) -> None:
    effects = samsvae.differential_expression(screen)
    some = effects.columns[[7, 3, 5, 1]]
    with pytest.warns(UserWarning, match="^16 genes of the data are ignored"):
        result = samsvae.ate_pearson(effects[some], screen)
    assert result.pooled == pytest.approx(1)
    with pytest.raises(InputError, match=r"the data lack 1 of the model's 20 genes: 'other'"):
        samsvae.ate_pearson(effects.rename(columns={"gene001": "other"}), screen)


@IGNORED
def test_targets_are_found_by_symbol_on_fewer_genes(screen: Screen) -> None:
    named = with_symbols(screen)
    kept = [0, 1, 2, 3, 16, 17, 18, 19]
    fewer = align_genes(named, [named.genes[i] for i in kept])
    assert fewer.registry.position_of_target["G01"] == 4
    cells = fewer.library_size > 0
    baseline = PerturbationMean(fewer)
    whole, same = (samsvae.evaluate([baseline], s[cells], **QUICK) for s in (named, fewer))
    np.testing.assert_array_equal(whole["value"], same["value"])


def test_targets_are_found_by_symbol_in_another_order(screen: Screen) -> None:
    named = with_symbols(screen)
    order = [*range(10, 20), *range(10)]
    permuted = align_genes(named, [named.genes[i] for i in order])
    target = permuted.registry.position_of_target["G01"]
    assert permuted.genes[target] == named.genes[16]
    table = samsvae.evaluate([PerturbationMean(permuted)], named, **QUICK)
    plain = samsvae.evaluate([PerturbationMean(named)], named, **QUICK)
    np.testing.assert_allclose(table["value"], plain["value"], rtol=1e-9)


def test_baselines_say_that_they_fell_back(screen: Screen) -> None:
    name = "G04"
    split = np.where(
        screen.condition == screen.position_of_condition[name], "test", screen.split.astype(str)
    )
    heldout = screen.with_split(split)
    mean = PerturbationMean(heldout).effects([name]).X
    for kind in (MatchingMean, Additive, RidgeRegression, LinearPCA):
        effects = kind(heldout).effects([name])
        np.testing.assert_allclose(effects.X, mean)
        assert effects.obs["fell_back"].tolist() == [True], kind
    known = MatchingMean(heldout).effects(["G01", "G01+G04"])
    assert known.obs["fell_back"].tolist() == [False, False]  # the mean of the part that is seen
    assert Additive(heldout).effects(["G01", "G01+G04"]).obs["fell_back"].tolist() == [False, True]


def test_what_learned_from_validation_cells_is_not_scored_on_them(screen: Screen) -> None:
    model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8).train(max_steps=5, progress=False)
    posterior = samsvae.EffectPosterior(model, screen)
    with pytest.raises(InputError, match=r"fitted on \d+ of the valid cells.*splits='test'"):
        samsvae.evaluate([posterior], screen, splits="valid", n_draws=0, **QUICK)
