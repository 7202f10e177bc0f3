"""Whether an interval about 0 tells that there is no effect, or only that cells are few."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from samsvae.analysis.discoveries import columns_of
from samsvae.analysis.effect_posterior import EffectAnswer
from samsvae.analysis.mixture import (
    GRID,
    EffectPrior,
    MixtureWeights,
    ObservedEffects,
    PredictedEffects,
    Reliability,
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Of genes that change by 1, and others, given many cells, few cells, and none."""
    truth = np.array([1.0, 1.0, 0.0, 0.0])
    variance = np.array([0.02, 1.0, np.inf])[:, None] ** 2 * np.ones(4)
    observed = ObservedEffects(
        np.array([truth, [0.3, -0.2, 0.1, 0.0], [np.nan] * 4]),
        variance,
        np.array([400, 5, 0]),
        np.ones(3),
        np.full(3, np.nan),
    )
    log_weight = torch.log(torch.tensor([0.9] + [0.01] * 2 * len(GRID), dtype=torch.float64))
    ones = np.ones(3)
    reliability = Reliability(ones, ones, 0 * ones, np.full((3, 4), 0.01))
    prior = EffectPrior(
        MixtureWeights(log_weight, 1.0, 1.0, 0.0), 1.0, np.ones((3, 4)), reliability
    )
    predicted = PredictedEffects(np.zeros((3, 4)), np.zeros((3, 4)))
    posterior = prior.posterior(observed, predicted)
    answer = EffectAnswer(posterior, observed, predicted, prior, np.ones(3, bool))
    columns = columns_of(answer, np.array([False, False, False, True]))
    index = pd.MultiIndex.from_product([["many", "few", "none"], [*"abcd"]])
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index)


def test_many_cells_tell_that_a_gene_does_not_change(table: pd.DataFrame) -> None:
    assert table.loc["many", "informative"].tolist() == [True, True, True, False]
    assert (table.loc["many", "lfsr"].iloc[:2] < 0.01).all()
    assert table.loc[("many", "c"), "lfsr"] > 0.5


def test_few_cells_or_none_do_not(table: pd.DataFrame) -> None:
    assert not table.loc["few", "informative"].any()
    assert not table.loc["none", "informative"].any()


def test_the_interval_given_an_effect_is_not_held_at_zero(table: pd.DataFrame) -> None:
    few = table.loc["few"].iloc[:3]
    assert (few["upper"] - few["lower"] < 0.5).all()  # the null component
    assert (few["upper_if_changed"] - few["lower_if_changed"] > 1).all()
    sure = table.loc["many"].iloc[:2]
    np.testing.assert_allclose(sure["lower_if_changed"], sure["lower"], atol=0.01)
    assert table.loc[("many", "d"), ["lower_if_changed", "upper_if_changed"]].isna().all()
