"""What is called on a screen without effects, whose cells are clones that differ."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.clones import screen_of_clones
from samsvae import Screen
from samsvae.data.fold_changes import fold_changes
from samsvae.estimators.discrepancy import learned_discrepancy


def trained(*, told: bool) -> tuple[samsvae.SAMSVAE, Screen]:
    screen = screen_of_clones(0, sd=0.4, told=told)
    screen = screen.with_split(samsvae.splits.stratified(screen, seed=0))
    model = samsvae.SAMSVAE(screen, n_latent=8, n_hidden=32)
    return model.train(max_steps=400, seed=0, progress=False), screen


@pytest.fixture(scope="module")
def told() -> tuple[samsvae.SAMSVAE, Screen]:
    return trained(told=True)


@pytest.fixture(scope="module")
def plain() -> tuple[samsvae.SAMSVAE, Screen]:
    return trained(told=False)


def calls(pair: tuple[samsvae.SAMSVAE, Screen], **settings: Any) -> pd.Series:
    table = samsvae.discoveries(*pair, n_particles=100, progress=False, **settings)
    return table["q_value"] < 0.05


@pytest.mark.parametrize("scale", ["lfc", "log"])
def test_clones_are_not_discoveries(
    told: tuple[samsvae.SAMSVAE, Screen], plain: tuple[samsvae.SAMSVAE, Screen], scale: str
) -> None:
    assert calls(plain, scale=scale).mean() > 0.1
    assert calls(told, scale=scale).mean() < 0.01


def test_intervals_of_effects_are_wider(told: tuple[samsvae.SAMSVAE, Screen]) -> None:
    """By the variance between replicates, of the model's other discrepancies."""
    model, screen = told
    names = list(screen.conditions[1:])
    nothing, train = np.zeros((len(names), len(screen.genes))), screen.train
    ours = model.metadata.discrepancy(names, nothing)
    unlearned, learned = copy(model), {"spread_of_condition": None, "spread_of_gene": None}
    unlearned.metadata = replace(model.metadata, **learned)  # as when it was learned
    learned = learned_discrepancy(unlearned, screen.valid, replace(train, replicate=None))
    before = replace(model.metadata, **learned).discrepancy(names, nothing)
    group = np.where(train.is_control, -1, train.condition - 1)
    between = fold_changes(train, group, train.is_control, len(names)).between
    np.testing.assert_allclose((ours - before).mean(), between.mean(), rtol=0.05)
